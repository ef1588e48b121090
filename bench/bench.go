package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// options say what is measured, and how often.
type options struct {
	home, bin, out string
	only           string
	cold           int // starts of each contender
	execs          int
	commands       int // whole processes of `banger exec`
	creates        int // of each image
	lists          int // of each number of VMs
	streams        int // each way
	filesystems    int // made from a tar by each contender
	pulls          int // of each kind
	transfers      int // each way by each contender
	queries        int // rounds by each contender
	attaches       int // machines
}

// bench is what every section works with.
type bench struct {
	options
	*home
	log io.Writer
}

// A section measures one thing. Sections share the home folder and leave no VM in it.
type section struct {
	name    string
	measure func(*bench, context.Context) (result, error)
}

var sections = []section{
	{"cold", (*bench).measureCold},
	{"exec", (*bench).measureExec},
	{"create", (*bench).measureCreate},
	{"list", (*bench).measureList},
	{"memory", (*bench).measureMemory},
	{"throughput", (*bench).measureThroughput},
	{"forward", (*bench).measureForward},
	{"network", (*bench).measureNetwork},
	{"ext4", (*bench).measureExt4},
	{"pull", (*bench).measurePull},
	{"build", (*bench).measureBuild},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := newReport(ctx)
	if err != nil {
		return err
	}
	err = o.measure(ctx, r, stderr)
	if len(r.Results) == 0 {
		return err
	}
	return errors.Join(err, r.writeTo(stdout), r.write(o.out))
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.home, "home", "", "a banger home folder to use, with its image and kernel; empty makes one and removes it")
	flags.StringVar(&o.bin, "bin", "bin", "folder of banger's programs")
	flags.StringVar(&o.out, "o", "bench/results.json", "file for the samples")
	flags.StringVar(
		&o.only,
		"only",
		"",
		"sections to measure, with commas between; empty is all: cold,exec,create,list,memory,throughput,forward,network,ext4,pull,build",
	)
	flags.IntVar(&o.cold, "cold", 7, "cold starts of each contender")
	flags.IntVar(&o.execs, "execs", 300, "warm execs of each contender")
	flags.IntVar(&o.commands, "commands", 20, "runs of the whole command banger exec")
	flags.IntVar(&o.creates, "creates", 20, "machines created from each image")
	flags.IntVar(&o.lists, "lists", 50, "listings of each number of machines")
	flags.IntVar(&o.streams, "streams", 3, "streams each way")
	flags.IntVar(&o.filesystems, "filesystems", 5, "filesystems made by each contender")
	flags.IntVar(&o.pulls, "pulls", 5, "pulls of each kind")
	flags.IntVar(&o.transfers, "transfers", 7, "transfers each way by each uplink")
	flags.IntVar(&o.queries, "queries", 5, "rounds of DNS queries by each server")
	flags.IntVar(&o.attaches, "attaches", 50, "machines attached to the network")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, name := range o.names() {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return o, fmt.Errorf("there is no section %q", name)
		}
	}
	if min(o.cold, o.execs, o.commands, o.creates, o.lists, o.streams, o.filesystems, o.pulls, o.transfers, o.queries, o.attaches) < 1 {
		return o, errors.New("every count must be 1 or more")
	}
	return o, nil
}

// names are the sections asked for, nil when all are.
func (o options) names() []string {
	if o.only == "" {
		return nil
	}
	return strings.Split(o.only, ",")
}

// measure fills the report. A section that fails is missing there, and does not cost the others.
func (o options) measure(ctx context.Context, r *report, log io.Writer) (err error) {
	h, err := openHome(o.home, o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close(ctx)) }()
	b := &bench{options: o, home: h, log: log}
	var failed []error
	for _, s := range sections {
		if names := o.names(); names != nil && !slices.Contains(names, s.name) {
			continue
		}
		fmt.Fprintf(log, "%s: measuring\n", s.name)
		began := time.Now()
		result, err := s.measure(b, ctx)
		if err != nil {
			failed = append(failed, fmt.Errorf("measure %s: %w", s.name, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		result.Name, result.Seconds = s.name, time.Since(began).Seconds()
		r.Results = append(r.Results, result)
	}
	return errors.Join(failed...)
}
