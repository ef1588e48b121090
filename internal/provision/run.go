package provision

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/progress"
)

const (
	// stepTimeout ends a step that hangs; a large preset under emulation takes a quarter of an
	// hour.
	stepTimeout = 2 * time.Hour
	bootTimeout = 10 * time.Minute

	tailLines     = 12
	tailLineBytes = 400
)

// agent is what a plan needs of a guest.
type agent interface {
	Exec(ctx context.Context, spec guest.ExecSpec) (*guest.Exec, error)
	WaitBooted(ctx context.Context) (state string, err error)
}

// Run does the steps in a VM whose root is the image to be. What they write goes to log as it
// comes.
func (p Plan) Run(ctx context.Context, a agent, log io.Writer) error {
	for _, s := range p.steps {
		if s.booted {
			if err := waitBooted(ctx, a); err != nil {
				return err
			}
		}
		if err := s.run(ctx, a, log); err != nil {
			return err
		}
	}
	return nil
}

func waitBooted(ctx context.Context, a agent) (err error) {
	stage := progress.Start(ctx, "wait for boot")
	defer func() { stage.End(err) }()
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if _, err := a.WaitBooted(ctx); err != nil {
		return fmt.Errorf("wait for the boot of the build's machine: %w", err)
	}
	return nil
}

func (s step) run(ctx context.Context, a agent, log io.Writer) (err error) {
	stage := progress.Start(ctx, "step "+s.name)
	defer func() { stage.End(err) }()
	fmt.Fprintf(log, "== %s\n", s.name)
	ctx, cancel := context.WithTimeoutCause(
		ctx,
		stepTimeout,
		api.Errorf(api.CodeTimeout, "step %s took longer than %s", s.name, stepTimeout),
	)
	defer cancel()
	last := &tail{}
	exit, err := execute(
		ctx,
		a,
		guest.ExecSpec{Argv: s.argv, Env: s.env, Dir: "/", NoStdin: true},
		io.MultiWriter(log, last, detail{stage}),
	)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("step %s: %w", s.name, err)
	}
	if exit.Code == 0 {
		return nil
	}
	return s.failed(exit, last.String())
}

// failed says how a step ended, with its last lines and, where it takes things from the net, the
// settings that say from where.
func (s step) failed(exit guest.Exit, last string) error {
	if exit.Error != "" {
		last = exit.Error
	}
	e := api.Errorf(api.CodeUnavailable, "step %s: exit status %d:\n%s", s.name, exit.Code, last)
	if len(s.sources) > 0 {
		e = e.WithRemedy(api.OpStatus.Remedy(api.None{}, "where it takes things from is set by %s", strings.Join(s.sources, ", ")))
	}
	return e
}

// execute runs a command in the guest and returns how it ended.
func execute(ctx context.Context, a agent, spec guest.ExecSpec, output io.Writer) (guest.Exit, error) {
	command, err := a.Exec(ctx, spec)
	if err != nil {
		return guest.Exit{}, err
	}
	defer command.Close()
	for {
		event, err := command.Recv()
		switch {
		case err != nil:
			return guest.Exit{}, err
		case event.Exit != nil:
			return *event.Exit, nil
		}
		if _, err := output.Write(append(event.Stdout, event.Stderr...)); err != nil {
			return guest.Exit{}, err
		}
	}
}

// tail keeps the last lines that were written to it. They are the guest's: each is cut, and holds
// no control characters.
type tail struct {
	lines []string
	line  []byte // begun, not ended yet
}

func (t *tail) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		text, ended := bytes.CutSuffix(part, []byte("\n"))
		t.line = append(t.line, text[:min(len(text), tailLineBytes-len(t.line))]...)
		if ended {
			t.end()
		}
	}
	return len(p), nil
}

func (t *tail) end() {
	line := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, string(t.line))
	t.line = t.line[:0]
	if strings.TrimSpace(line) == "" {
		return
	}
	t.lines = append(t.lines, line)
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
}

// String returns the lines, each indented.
func (t *tail) String() string {
	t.end()
	return "  " + strings.Join(t.lines, "\n  ")
}

// detail shows what apt is at beside the stage.
type detail struct{ stage *progress.Stage }

func (d detail) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		for _, verb := range []string{"Setting up ", "Unpacking "} {
			if rest, ok := bytes.CutPrefix(line, []byte(verb)); ok {
				name, _, _ := bytes.Cut(rest, []byte(" "))
				d.stage.Detail(strings.ToLower(verb) + string(name[:min(len(name), 40)]))
			}
		}
	}
	return len(p), nil
}

// maxListBytes is far above what the names of a distribution's packages take.
const maxListBytes = 8 << 20

// errListTooLong is a package list that no distribution has.
var errListTooLong = errors.New("the list is too long")

// Installed asks a Debian guest for what is installed: "name version", by name, and the
// architecture.
func Installed(ctx context.Context, a agent) (packages []string, architecture string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	list := &limited{most: maxListBytes}
	exit, err := execute(ctx, a, guest.ExecSpec{
		Argv: []string{
			"sh",
			"-c",
			`dpkg --print-architecture && dpkg-query -W -f '${db:Status-Status}\t${Package} ${Version}\n' | LC_ALL=C sort`,
		}, NoStdin: true,
	}, list)
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit status %d", exit.Code)
	}
	if err != nil {
		return nil, "", fmt.Errorf("list packages: %w", err)
	}
	lines := bufio.NewScanner(&list.Buffer)
	lines.Scan()
	architecture = lines.Text()
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "installed\t"); ok {
			packages = append(packages, name)
		}
	}
	return packages, architecture, lines.Err()
}

// limited is a buffer that refuses to grow beyond a size.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.most {
		return 0, errListTooLong
	}
	return l.Buffer.Write(p)
}
