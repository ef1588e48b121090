package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"banger/api"
)

// printJSON prints v as the API has it, indented.
func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// show prints what a request answered: as JSON with --json, else as human does.
func show[T any](a *app, v T, err error, human func(T) error) error {
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(v)
	}
	return human(v)
}

// printName prints a machine's name, for scripts.
func (a *app) printName(vm api.Machine) error {
	_, err := fmt.Fprintln(a.Stdout, vm.Name)
	return err
}

// table prints rows in columns; the first row is the heading.
func (a *app) table(rows [][]string) error {
	w := tabwriter.NewWriter(a.Stdout, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		if _, err := io.WriteString(w, strings.Join(row, "\t")+"\n"); err != nil {
			return err
		}
	}
	return w.Flush()
}

// age says how long ago t was, in words; never is "-".
func age(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return strings.ToLower(units.HumanDuration(time.Since(*t))) + " ago"
}

func size(bytes int64) string { return units.BytesSize(float64(bytes)) }

func sizeMiB(mib int) string { return size(int64(mib) << 20) }

// seconds shows a duration with the digits that matter.
func seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func shortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
