package qemu

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// QEMU refuses a burst below the rate, and one without a rate: such bursts are no bursts.
func TestSetDriveLimits(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		want   string
	}{
		{"None", Limits{}, `{"bps":0,"bps_rd":0,"bps_wr":0,"id":"drive-a","iops":0,"iops_rd":0,"iops_wr":0}`},
		{
			"Bytes",
			Limits{BytesPerSecond: 10},
			`{"bps":10,"bps_rd":0,"bps_wr":0,"id":"drive-a","iops":0,"iops_rd":0,"iops_wr":0}`,
		},
		{
			"Bursts",
			Limits{BytesPerSecond: 10, BytesBurst: 11, OpsPerSecond: 20, OpsBurst: 21},
			`{"bps":10,"bps_max":11,"bps_rd":0,"bps_wr":0,"id":"drive-a","iops":20,"iops_max":21,"iops_rd":0,"iops_wr":0}`,
		},
		{
			"BurstAsTheRate",
			Limits{BytesPerSecond: 10, BytesBurst: 10, OpsPerSecond: 20, OpsBurst: 20},
			`{"bps":10,"bps_rd":0,"bps_wr":0,"id":"drive-a","iops":20,"iops_rd":0,"iops_wr":0}`,
		},
		{
			"BurstWithoutRate",
			Limits{BytesBurst: 10, OpsBurst: 20},
			`{"bps":0,"bps_rd":0,"bps_wr":0,"id":"drive-a","iops":0,"iops_rd":0,"iops_wr":0}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{}
			if err := r.machine(t).SetDriveLimits(testContext(t), "a", tt.limits); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"block_set_io_throttle " + tt.want}, r.commands); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The new file is there before the old one goes, and is told to the guest last.
func TestReplaceDrive(t *testing.T) {
	r := &recorder{}
	m := r.machine(t)
	for _, d := range []Drive{{ID: "a", Path: "/one", NoFlush: true}, {ID: "a", Path: "/two", ReadOnly: true}} {
		if err := m.ReplaceDrive(testContext(t), d, 4096); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`blockdev-add {"cache":{"no-flush":true},"driver":"file","filename":"/one","locking":"off","node-name":"file-a-1","read-only":false}`,
		`blockdev-reopen {"options":[{"driver":"raw","file":"file-a-1","node-name":"node-a","read-only":false}]}`,
		`blockdev-del {"node-name":"file-a-0"}`,
		`block_resize {"node-name":"node-a","size":4096}`,
		`blockdev-add {"cache":{"no-flush":false},"driver":"file","filename":"/two","locking":"off","node-name":"file-a-2","read-only":true}`,
		`blockdev-reopen {"options":[{"driver":"raw","file":"file-a-2","node-name":"node-a","read-only":true}]}`,
		`blockdev-del {"node-name":"file-a-1"}`,
	}
	if diff := cmp.Diff(want, r.commands); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whichever command QEMU refuses, the drive keeps a file, and the next exchange leaves none behind
// that nobody uses.
func TestReplaceDriveFails(t *testing.T) {
	for _, refused := range []string{"blockdev-add", "blockdev-reopen", "blockdev-del", "block_resize"} {
		t.Run(refused, func(t *testing.T) {
			r := &recorder{refuse: refused}
			m := r.machine(t)
			var refusal *CommandError
			if err := m.ReplaceDrive(testContext(t), Drive{ID: "a", Path: "/one"}, 1); !errors.As(err, &refusal) ||
				refusal.Command != refused {
				t.Errorf("got %v, want the refusal of %s", err, refused)
			}
			r.refuse = ""
			if err := m.ReplaceDrive(testContext(t), Drive{ID: "a", Path: "/two"}, 1); err != nil {
				t.Fatal(err)
			}
			if left := filesLeft(r.commands, refused); len(left) != 1 {
				t.Errorf("after %q QEMU has the files %v", r.commands, left)
			}
		})
	}
}

// filesLeft follows what a QEMU that refused one command once has open after all commands.
func filesLeft(commands []string, refused string) []string {
	open := map[string]bool{"file-a-0": true}
	for _, c := range commands {
		name, arguments, _ := strings.Cut(c, " ")
		if name == refused {
			refused = ""
			continue
		}
		_, rest, _ := strings.Cut(arguments, `"node-name":"`)
		node, _, _ := strings.Cut(rest, `"`)
		switch name {
		case "blockdev-add":
			open[node] = true
		case "blockdev-del":
			delete(open, node)
		}
	}
	var left []string
	for name := range open {
		left = append(left, name)
	}
	return left
}

func TestBalloon(t *testing.T) {
	r := &recorder{}
	m := r.machine(t)
	if err := errors.Join(m.SetBalloon(testContext(t), 3<<20), m.PollBalloon(testContext(t), 7)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`balloon {"value":3298534883328}`, // beyond 32 bits
		`qom-set {"path":"/machine/peripheral/balloon","property":"guest-stats-polling-interval","value":7}`,
	}
	if diff := cmp.Diff(want, r.commands); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.answer = `{"actual":268435456}`
	if got, err := m.BalloonRemaining(testContext(t)); got != 256<<20 || err != nil {
		t.Errorf("remaining %d, %v", got, err)
	}
	r.answer = `{"stats":{"stat-free-memory":4096,"stat-swap-in":18446744073709551615,"stat-major-faults":0},"last-update":1}`
	got, err := m.BalloonStats(testContext(t))
	if diff := cmp.Diff(BalloonStats{"stat-free-memory": 4096, "stat-major-faults": 0}, got); diff != "" || err != nil {
		t.Errorf("statistics: %v (-want +got):\n%s", err, diff)
	}
	r.refuse = "qom-get"
	if _, err := m.BalloonStats(testContext(t)); err == nil ||
		err.Error() != "read balloon statistics: qemu qom-get: refused" {
		t.Errorf("refused: %v", err)
	}
}

// Each of the small commands is the one it should be, and a refusal is told.
func TestCommands(t *testing.T) {
	keys := `send-key {"keys":[{"type":"qcode","data":"ctrl"},{"type":"qcode","data":"alt"},{"type":"qcode","data":"delete"}]}`
	tests := []struct {
		name string
		do   func(*Machine, context.Context) error
		want string
	}{
		{"Continue", (*Machine).Continue, "cont"},
		{"Pause", (*Machine).Pause, "stop"},
		{"CtrlAltDel", (*Machine).CtrlAltDel, keys},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{}
			m := r.machine(t)
			if err := tt.do(m, testContext(t)); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{tt.want}, r.commands); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			r.refuse, _, _ = strings.Cut(tt.want, " ")
			if err := tt.do(m, testContext(t)); err == nil || err.Error() != "qemu "+r.refuse+": refused" {
				t.Errorf("refused: %v", err)
			}
		})
	}
}
