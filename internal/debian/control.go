package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// maxLineBytes bounds a line of a control file; the longest in Debian's index are dependencies of
// some 30 KiB.
const maxLineBytes = 1 << 20

// Stanza is one paragraph of a control file (deb822(5)): values by field name, names as they are
// written. Continuation lines are kept, joined by newlines, without their indentation.
type Stanza map[string]string

// Stanzas reads a control file, such as /var/lib/dpkg/status, and calls each for every stanza.
func Stanzas(ctx context.Context, r io.Reader, each func(Stanza) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLineBytes)
	current, field := Stanza{}, ""
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if len(current) == 0 {
				continue
			}
			if err := errors.Join(context.Cause(ctx), each(current)); err != nil {
				return err
			}
			current, field = Stanza{}, ""
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if field == "" {
				return fmt.Errorf("continuation without a field: %.80q", line)
			}
			current[field] += "\n" + strings.TrimSpace(line)
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" {
				return fmt.Errorf("line without a field: %.80q", line)
			}
			if _, again := current[name]; again {
				return fmt.Errorf("field %.80q twice", name)
			}
			field = name
			current[name] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if len(current) > 0 {
		return each(current)
	}
	return nil
}

// Package is one package of the index.
type Package struct {
	Name      string
	Version   string
	Depends   []string // names of the first alternatives, without versions
	Filename  string   // below the mirror
	SizeBytes int64
	SHA256    string // hex
}

func packageOf(s Stanza) (Package, error) {
	p := Package{
		Name:     s["Package"],
		Version:  s["Version"],
		Filename: s["Filename"],
		SHA256:   s["SHA256"],
		Depends:  dependencies(s["Depends"]),
	}
	size, err := strconv.ParseInt(s["Size"], 10, 64)
	if err != nil || size < 0 || size > maxPackageBytes {
		return Package{}, fmt.Errorf("package %.80q: bad size %.40q", p.Name, s["Size"])
	}
	p.SizeBytes = size
	if !isSHA256(p.SHA256) {
		return Package{}, fmt.Errorf("package %.80q: bad sha256", p.Name)
	}
	if p.Filename == "" || path.Clean("/"+p.Filename) != "/"+p.Filename {
		return Package{}, fmt.Errorf("package %.80q: bad file name %.200q", p.Name, p.Filename)
	}
	return p, nil
}

func dependencies(field string) []string {
	var names []string
	for one := range strings.SplitSeq(field, ",") {
		first, _, _ := strings.Cut(one, "|")
		if words := strings.Fields(first); len(words) > 0 {
			name, _, _ := strings.Cut(words[0], ":")
			names = append(names, name)
		}
	}
	return names
}
