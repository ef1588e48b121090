package agent

import (
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the agent starts has the kernel's slack, however late the agent's own timers may be.
func TestUsualSlack(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and nobody inherits from it
	if err := setSlack(timerSlack); err != nil {
		t.Fatal(err)
	}
	var out []byte
	err := withUsualSlack(func() (err error) {
		out, err = exec.CommandContext(t.Context(), "cat", "/proc/self/timerslack_ns").Output()
		return err
	})
	if got := strings.TrimSpace(string(out)); got != slackText(usualSlack) || err != nil {
		t.Errorf("the child has %s, %v, want %s", got, err, slackText(usualSlack))
	}
}

func slackText(d time.Duration) string { return strconv.FormatInt(d.Nanoseconds(), 10) }
