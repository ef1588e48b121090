package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"banger/internal/guestd/accounts"
	"banger/internal/guestd/system"
	agentv1 "banger/proto/agent/v1"
)

// command is a request to run something, resolved against the guest's accounts and files.
type command struct {
	path string
	argv []string
	env  []string
	dir  string
	user accounts.User
}

// notStarted is a command that can not run, with the exit code a shell gives for it.
type notStarted struct {
	code   int32
	reason string
}

func (e *notStarted) Error() string { return e.reason }

// Exit codes of a shell for a command that it can not run.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// resolve turns a request into a command. Its error is a *notStarted, or the caller's fault.
func (s *Server) resolve(start *agentv1.ExecStart) (*command, error) {
	if err := checkStart(start); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	user, err := accounts.Lookup(filepath.Join(s.config.Root, "etc"), start.User)
	if errors.Is(err, accounts.ErrUnknown) {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	c := &command{user: user, argv: start.Argv, env: environment(user, start), dir: start.Cwd}
	if err := c.findDir(); err != nil {
		return nil, err
	}
	if len(c.argv) == 0 {
		c.path = user.Shell
		c.argv = []string{"-" + filepath.Base(user.Shell)} // a dash makes it a login shell
		return c, nil
	}
	if c.path, err = lookPath(c.argv[0], c.dir, c.env); err != nil {
		return nil, err
	}
	return c, nil
}

// checkStart refuses what execve would misread or refuse with a worse message.
func checkStart(start *agentv1.ExecStart) error {
	size := 0
	for _, s := range start.Argv {
		size += len(s) + 1
	}
	for _, s := range start.Env {
		if i := strings.IndexByte(s, '='); i <= 0 {
			return fmt.Errorf("environment %.80q: not KEY=VALUE", s)
		}
		size += len(s) + 1
	}
	if size > agentv1.MaxArgBytes {
		return fmt.Errorf("arguments and environment of %d bytes: at most %d are taken", size, agentv1.MaxArgBytes)
	}
	if len(start.Argv) > 0 && start.Argv[0] == "" {
		return errors.New("empty command name")
	}
	for _, s := range append(append([]string{start.Cwd}, start.Argv...), start.Env...) {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%.80q: holds a zero byte", s)
		}
	}
	return nil
}

// environment is what login gives, with the request's on top; of a name given twice the last one
// counts.
func environment(user accounts.User, start *agentv1.ExecStart) []string {
	env := []string{
		"HOME=" + user.Home, "USER=" + user.Name, "LOGNAME=" + user.Name, "SHELL=" + user.Shell, "PATH=" + system.DefaultPath,
	}
	if t := start.Terminal; t != nil {
		term := t.Term
		if term == "" {
			term = "xterm-256color"
		}
		env = append(env, "TERM="+term)
	}
	at := make(map[string]int, len(env)+len(start.Env))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range start.Env {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	return env
}

// findDir settles the working folder: the one asked for must be there, a missing home gives way to
// /.
func (c *command) findDir() error {
	asked := c.dir != ""
	if !asked {
		c.dir = c.user.Home
	}
	if !filepath.IsAbs(c.dir) {
		c.dir = filepath.Join(c.user.Home, c.dir)
	}
	info, err := os.Stat(c.dir)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil && asked {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("working folder %q: %w", c.dir, underlying(err)))
	}
	if err != nil {
		c.dir = "/"
	}
	return nil
}

// lookPath finds a command as execvp does: along PATH when it has no slash, else from the working
// folder.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	var found error = &notStarted{codeNotFound, fmt.Sprintf("%s: command not found", name)}
	for _, folder := range filepath.SplitList(lookupEnv(env, "PATH")) {
		if !filepath.IsAbs(folder) {
			folder = filepath.Join(dir, folder)
		}
		path := filepath.Join(folder, name)
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if isNot := (*notStarted)(nil); errors.As(err, &isNot) && isNot.code == codeNotExecutable {
			found = err
		}
	}
	return "", found
}

// executable gives a *notStarted unless path is a file with some execute bit; whether this user may
// run it, execve says.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return startError(path, err)
	case info.IsDir():
		return &notStarted{codeNotExecutable, path + ": is a directory"}
	case info.Mode()&0o111 == 0:
		return &notStarted{codeNotExecutable, path + ": permission denied"}
	}
	return nil
}

// startError gives the exit code for what stat or execve said, and leaves alone what is no fault of
// the command.
func startError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &notStarted{codeNotFound, path + ": no such file or directory"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ELOOP),
		errors.Is(err, syscall.ETXTBSY):
		return &notStarted{codeNotExecutable, fmt.Sprintf("%s: %v", path, underlying(err))}
	}
	return fmt.Errorf("start %s: %w", path, underlying(err))
}

// underlying drops the operation and path of a file error, which the message gives in better words.
func underlying(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func lookupEnv(env []string, name string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}
