package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"banger/api"
)

const (
	streamMiB     = 256
	streamTimeout = 5 * time.Minute
)

// measureThroughput streams through exec, out of a VM and into it. It is for information.
func (b *bench) measureThroughput(ctx context.Context) (_ result, err error) {
	r := result{Note: fmt.Sprintf("%d MiB through exec, between the API and a process of the machine", streamMiB)}
	vm, remove, err := b.boot(ctx, api.WaitBooted)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := b.waitIdle(ctx, vm.ID); err != nil {
		return r, err
	}
	took, err := interleave(ctx, 0, b.streams, streamTimeout,
		timed("out: head -c /dev/zero", func(ctx context.Context) error { return b.streamOut(ctx, vm.ID) }),
		timed("in: wc -c", func(ctx context.Context) error { return b.streamIn(ctx, vm.ID) }),
	)
	for _, s := range took {
		r.Series = append(r.Series, rates(streamMiB, s))
	}
	return r, err
}

// rates turns the times of streams of so many MiB into how fast they were.
func rates(mib float64, took series) series { return perSecond(mib, "MiB/s", took) }

// perSecond turns times, in which so many of something were done, into rates.
func perSecond(count float64, unit string, took series) series {
	var samples []float64
	for _, ms := range took.Samples {
		samples = append(samples, count/(ms/1000))
	}
	return newSeries(took.Name, unit, samples...)
}

func (b *bench) streamOut(ctx context.Context, vm string) error {
	var got counter
	err := b.runIn(ctx, vm, nil, &got, "head", "-c", fmt.Sprint(streamMiB<<20), "/dev/zero")
	if err == nil && got != streamMiB<<20 {
		err = fmt.Errorf("%d bytes came out", got)
	}
	return err
}

func (b *bench) streamIn(ctx context.Context, vm string) error {
	var counted strings.Builder
	err := b.runIn(ctx, vm, io.LimitReader(zeros{}, streamMiB<<20), &counted, "wc", "-c")
	if got := strings.TrimSpace(counted.String()); err == nil && got != fmt.Sprint(streamMiB<<20) {
		err = fmt.Errorf("%s bytes went in", got)
	}
	return err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// zeros is an endless stream of them.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
