package cli

import (
	"encoding/json"
	stdflag "flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

var update = stdflag.Bool("update", false, "write what the commands gave into testdata")

// TestScripts runs testdata/*.txt: command lines, and what they give with a daemon that answers as
// the file says. The first character of a line says what it is:
//
//	GET /v1/machines         a call that the daemon knows, with another status than 200 behind it if it fails
//	> [{"id":"x"}]      its answer, in as many lines as it takes; of a session, its frames: stdout TEXT, exit {"code":3}
//	< {"name":"web"}    the body that it must be asked with
//	$ banger ls         a command line, split at spaces, with '...' around words that hold some
//	| NAME   STATE      its standard output
//	! banger: no        its standard error
//	? 1                 its exit code, if it is not 0
//
// An answer's "@1h" is the time an hour ago. HOME stands for the home folder. Commands start no
// daemon. -update writes what commands gave.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// runScript returns the script with what its commands gave now.
func runScript(t *testing.T, text string) string {
	t.Helper()
	d := &scripted{t: t, answers: map[string]*answer{}}
	var out strings.Builder
	var last *answer
	home := fakeDaemon(t, d.handlers())
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch kind, rest, _ := strings.Cut(line, " "); {
		case kind == "|" || kind == "!" || kind == "?": // is written anew
			continue
		case kind == "<":
			if !*update {
				last.want = rest
			}
		case kind == ">":
			last.lines = append(last.lines, rest)
		case kind == "$":
			fmt.Fprintln(&out, line)
			words := splitWords(rest)
			transcript(&out, banger(t, home, words[1:]...), home)
			continue
		case line != "" && kind != "#":
			last = &answer{status: http.StatusOK}
			call := strings.Fields(line)
			if len(call) == 3 {
				last.status, _ = strconv.Atoi(call[2]) // 0 fails below
			}
			d.set(call[0]+" "+call[1], last)
		}
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

// transcript writes what a command gave.
func transcript(out *strings.Builder, r result, home string) {
	for _, stream := range []struct{ prefix, text string }{{"|", r.stdout}, {"!", r.stderr}} {
		for line := range strings.Lines(strings.ReplaceAll(stream.text, home, "HOME")) {
			line = strings.TrimRight(line, "\n")
			out.WriteString(strings.TrimRight(stream.prefix+" "+line, " ") + "\n")
		}
	}
	if r.code != 0 {
		fmt.Fprintf(out, "? %d\n", r.code)
	}
}

// splitWords splits at spaces, but not between single quotes.
func splitWords(text string) []string {
	var words []string
	for _, word := range regexp.MustCompile(`(?:'[^']*'|[^ '])+`).FindAllString(text, -1) {
		words = append(words, strings.ReplaceAll(word, "'", ""))
	}
	return words
}

// answer is what the daemon says to a call.
type answer struct {
	status int
	lines  []string
	want   string // JSON that it must be asked with; "" for anything
}

// scripted is a daemon that answers as a script says.
type scripted struct {
	t       *testing.T
	mu      sync.Mutex // guards answers
	answers map[string]*answer
}

func (d *scripted) set(call string, a *answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers[call] = a
}

// handlers has every operation but Status, which fakeDaemon answers.
func (d *scripted) handlers() map[string]http.HandlerFunc {
	all := map[string]http.HandlerFunc{}
	for _, op := range api.Operations {
		if spec := op.Describe(); spec.Name != api.OpStatus.Name {
			all[spec.Route] = func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, spec) }
		}
	}
	return all
}

func (d *scripted) serve(w http.ResponseWriter, r *http.Request, spec api.Spec) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	d.mu.Lock()
	a := d.answers[r.Method+" "+r.URL.RequestURI()]
	d.mu.Unlock()
	if a == nil {
		refuses(api.Errorf(api.CodeInternal, "the script has no answer to %s %s", r.Method, r.URL.RequestURI()))(w, r)
		return
	}
	if a.want != "" && !sameJSON(a.want, string(body)) {
		d.t.Errorf("%s was asked with\n%s\nwant\n%s", spec.Name, body, a.want)
	}
	if spec.Kind == api.KindUpgrade && a.status == http.StatusOK {
		d.converse(w, a)
		return
	}
	w.WriteHeader(a.status)
	for _, line := range a.lines {
		fmt.Fprintln(w, withTimes(line))
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && cmp.Equal(x, y)
}

// withTimes replaces "@1h" by the time an hour ago.
func withTimes(line string) string {
	return regexp.MustCompile(`"@[0-9a-z]+"`).ReplaceAllStringFunc(line, func(ago string) string {
		d, err := time.ParseDuration(strings.Trim(ago, `"@`))
		if err != nil {
			return ago
		}
		return `"` + time.Now().Add(-d).Format(time.RFC3339Nano) + `"`
	})
}

// frameTypes names the frames of a script; the types in an api.Frame are numbers.
var frameTypes = map[string]api.FrameType{
	"stdout": api.FrameStdout, "stderr": api.FrameStderr, "exit": api.FrameExit, "progress": api.FrameProgress, "started": api.FrameStarted,
}

// converse sends a session's frames, and closes the connection.
func (d *scripted) converse(w http.ResponseWriter, a *answer) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		d.t.Error(err)
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.ExecUpgrade+"\r\n\r\n")
	frames := api.NewFrameConn(conn, buffered.Reader)
	for _, line := range a.lines {
		kind, rest, _ := strings.Cut(line, " ")
		if !slices.Contains([]string{"exit", "progress", "started"}, kind) {
			rest += "\n"
		}
		if err := frames.Write(frameTypes[kind], []byte(withTimes(rest))); err != nil {
			return // the client is gone
		}
	}
}
