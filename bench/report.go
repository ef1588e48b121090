package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is one run, as bench/results.json holds it.
type report struct {
	Began   time.Time `json:"began"`
	Host    host      `json:"host"`
	Results []result  `json:"results"`
}

// host is where it was measured.
type host struct {
	CPU       string `json:"cpu"`
	CPUs      int    `json:"cpus"`
	Kernel    string `json:"kernel"`
	LoadStart string `json:"load_at_start"` // the averages of 1, 5 and 15 minutes
	QEMU      string `json:"qemu"`
	Commit    string `json:"commit"` // git describe; -dirty when files had changed
}

// result is what one section measured.
type result struct {
	Name    string   `json:"name"`
	Note    string   `json:"note"` // what is compared with what
	Seconds float64  `json:"seconds"`
	Series  []series `json:"series"`
	Ratios  []ratio  `json:"ratios,omitempty"`
}

func newReport(ctx context.Context) (*report, error) {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, fmt.Errorf("read load: %w", err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("read kernel's release: %w", err)
	}
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("read CPU's model: %w", err)
	}
	return &report{Began: time.Now(), Host: host{
		CPU: cpuModel(cpus), CPUs: runtime.NumCPU(), Kernel: strings.TrimSpace(string(release)),
		LoadStart: strings.Join(strings.Fields(string(load))[:3], " "),
		QEMU:      firstLineOf(ctx, "qemu-system-x86_64", "--version"), Commit: firstLineOf(ctx, "git", "describe", "--always", "--dirty"),
	}}, nil
}

// cpuModel is the first processor's name in a /proc/cpuinfo, empty when that has none.
func cpuModel(cpuinfo []byte) string {
	for line := range strings.Lines(string(cpuinfo)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// firstLineOf is what a program says of itself, or why it does not: the report is good without it.
func firstLineOf(ctx context.Context, program string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// writeTo writes the table.
func (r *report) writeTo(to io.Writer) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s, %d CPUs, Linux %s, %s\ncommit %s, load at start %s\n",
		r.Host.CPU, r.Host.CPUs, r.Host.Kernel, r.Host.QEMU, r.Host.Commit, r.Host.LoadStart)
	for _, section := range r.Results {
		fmt.Fprintf(&text, "\n%s: %s (%.0f s)\n", section.Name, section.Note, section.Seconds)
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "n\tmin\tmedian\tp99\tmax\t\t")
		for _, s := range section.Series {
			fmt.Fprintf(
				w,
				"%d\t%s\t%s\t%s\t%s\t%s\t  %s\n",
				len(s.Samples),
				digits(s.Min),
				digits(s.Median),
				digits(s.P99),
				digits(s.Max),
				s.Unit,
				s.Name,
			)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, ratio := range section.Ratios {
			fmt.Fprintf(&text, "  %.3f  %s%s\n", ratio.Value, ratio.Name, ratio.verdict())
		}
	}
	_, err := text.WriteTo(to)
	return err
}

// digits shows three places for what is small, and none for what is large.
func digits(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.3f", v)
	case v < 1000:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func (r ratio) verdict() string {
	switch {
	case r.Target == 0:
		return ""
	case r.Value <= r.Target:
		return fmt.Sprintf(": target %.2f, met", r.Target)
	}
	return fmt.Sprintf(": target %.2f, MISSED", r.Target)
}

// write replaces the file with the report.
func (r *report) write(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
