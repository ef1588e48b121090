package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// A series is what was measured of one contender, in the order of measuring.
type series struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"` // of the samples
	Min     float64   `json:"min"`
	Median  float64   `json:"median"`
	P99     float64   `json:"p99"` // the maximum when there are fewer than 100 samples
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
}

func newSeries(name, unit string, samples ...float64) series {
	return series{
		Name: name, Unit: unit, Samples: samples,
		Min: quantile(samples, 0), Median: quantile(samples, 0.5), P99: quantile(samples, 0.99), Max: quantile(samples, 1),
	}
}

// quantile is the smallest sample that at least the share q of all does not exceed (nearest rank);
// NaN of none.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// A ratio compares a statistic of two series. It is good when it does not exceed Target; 0 is no
// target.
type ratio struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target float64 `json:"target,omitempty"`
}

// A contender does the work once and says how long that took, what was to be prepared left out.
type contender struct {
	name string
	once func(context.Context) (time.Duration, error)
}

// timed makes work that needs no preparation a contender.
func timed(name string, work func(context.Context) error) contender {
	return contender{name, func(ctx context.Context) (time.Duration, error) {
		began := time.Now()
		err := work(ctx)
		return time.Since(began), err
	}}
}

// interleave lets the contenders take turns n times, after warmUp turns that do not count. A turn
// has the deadline. The series are in milliseconds and in the order of the contenders.
func interleave(ctx context.Context, warmUp, n int, deadline time.Duration, contenders ...contender) ([]series, error) {
	samples := make([][]float64, len(contenders))
	for turn := range warmUp + n {
		for i, c := range contenders {
			took, err := within(ctx, deadline, c.once)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if turn >= warmUp {
				samples[i] = append(samples[i], took.Seconds()*1000)
			}
		}
	}
	all := make([]series, len(contenders))
	for i, c := range contenders {
		all[i] = newSeries(c.name, "ms", samples[i]...)
	}
	return all, nil
}

func within(ctx context.Context, deadline time.Duration, once func(context.Context) (time.Duration, error)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return once(ctx)
}
