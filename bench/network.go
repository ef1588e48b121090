package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const networkTimeout = 15 * time.Minute

// What a sample of bench/gateway stands for.
const (
	gatewayMiB         = 512
	gatewayConnections = 1000
	gatewayQueries     = 32_000
)

// measureNetwork builds and runs bench/gateway, which makes a host of its own for it: bytes and
// connections from a namespace to the outside and back by banger's gateway, by pasta alone and by
// slirp4netns; DNS queries; and how long a machine's place on the network takes.
func (b *bench) measureNetwork(ctx context.Context) (result, error) {
	r := result{
		Note: fmt.Sprintf(
			"%d MiB by TCP between a namespace and the outside; %d connections, one after the other; %d DNS queries, some at a time; machines attached one by one",
			gatewayMiB,
			gatewayConnections,
			gatewayQueries,
		),
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	work, err := os.MkdirTemp("", "bb-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(work)
	program := filepath.Join(work, "gateway")
	if err := command(ctx, "go", "build", "-o", program, "banger/bench/gateway"); err != nil {
		return r, err
	}
	var out, errs bytes.Buffer
	run := exec.CommandContext(
		ctx,
		program,
		"-transfers",
		fmt.Sprint(b.transfers),
		"-queries",
		fmt.Sprint(b.queries),
		"-attaches",
		fmt.Sprint(b.attaches),
	)
	run.Stdout, run.Stderr = &out, &errs
	if err := run.Run(); err != nil {
		return r, fmt.Errorf("%w: %s", err, bytes.TrimSpace(errs.Bytes()))
	}
	var measured []struct {
		Name   string
		Millis []float64
		Broken int
	}
	if err := json.Unmarshal(out.Bytes(), &measured); err != nil {
		return r, fmt.Errorf("read what was measured: %w", err)
	}
	medians := map[string]float64{}
	for _, m := range measured {
		if len(m.Millis) == 0 {
			return r, fmt.Errorf("%s: all %d broke", m.Name, m.Broken)
		}
		s := newSeries(m.Name, "ms", m.Millis...)
		switch {
		case strings.HasPrefix(m.Name, "DNS"):
			s = perSecond(gatewayQueries, "queries/s", s)
		case strings.HasSuffix(m.Name, " get"), strings.HasSuffix(m.Name, " put"):
			s = rates(gatewayMiB, s)
		case strings.HasSuffix(m.Name, " open"):
			s = perSecond(gatewayConnections, "connections/s", s)
		}
		medians[s.Name] = s.Median
		if m.Broken > 0 {
			s.Name += fmt.Sprintf(" (%d more broke)", m.Broken)
		}
		r.Series = append(r.Series, s)
	}
	for _, way := range []string{"get", "put", "open"} {
		r.Ratios = append(
			r.Ratios,
			ratio{
				Name:   "pasta alone beside the gateway, " + way + ", medians of rates",
				Value:  medians["pasta alone, "+way] / medians["gateway, "+way],
				Target: 1 / 0.95,
			},
			ratio{
				Name:  "slirp4netns beside the gateway, " + way + ", medians of rates",
				Value: medians["slirp4netns, "+way] / medians["gateway, "+way],
			},
		)
	}
	return r, nil
}
