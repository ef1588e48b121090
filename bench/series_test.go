package main

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 to 1: the order of measuring is not that of size
	}
	for _, test := range []struct {
		name    string
		samples []float64
		q, want float64
	}{
		{"minimum", []float64{3, 1, 2}, 0, 1},
		{"median of three", []float64{3, 1, 2}, 0.5, 2},
		{"median of two is the lower", []float64{2, 1}, 0.5, 1},
		{"one sample", []float64{7}, 0.99, 7},
		{"p99 of few is the maximum", []float64{1, 2, 3}, 0.99, 3},
		{"p99 of a hundred", hundred, 0.99, 99},
		{"maximum", hundred, 1, 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := quantile(test.samples, test.q); got != test.want {
				t.Errorf("quantile(%v) = %v, want %v", test.q, got, test.want)
			}
		})
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing = %v, want NaN", got)
	}
}

func TestInterleave(t *testing.T) {
	var turns string
	contend := func(name string, took time.Duration) contender {
		return contender{name, func(ctx context.Context) (time.Duration, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("a turn has no deadline")
			}
			turns += name
			return time.Duration(len(turns)) * took, nil
		}}
	}
	got, err := interleave(t.Context(), 1, 2, time.Minute, contend("A", time.Millisecond), contend("B", time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if turns != "ABABAB" {
		t.Errorf("turns are %s", turns)
	}
	want := []series{newSeries("A", "ms", 3, 5), newSeries("B", "ms", 4000, 6000)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInterleaveEndsAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	calls := 0
	_, err := interleave(t.Context(), 0, 5, time.Minute, timed("A", func(context.Context) error {
		calls++
		return broken
	}))
	if !errors.Is(err, broken) || err.Error() != "A: broken" || calls != 1 {
		t.Errorf("after %d calls the error is %v", calls, err)
	}
}
