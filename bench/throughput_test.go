package main

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRates(t *testing.T) {
	got := rates(streamMiB, newSeries("out", "ms", 1000, 32_000))
	if diff := cmp.Diff(newSeries("out", "MiB/s", 256, 8), got); diff != "" {
		t.Error(diff)
	}
}

func TestCounter(t *testing.T) {
	var got counter
	if _, err := io.CopyN(&got, zeros{}, 100_001); err != nil || got != 100_001 {
		t.Errorf("counted %d, %v", got, err)
	}
}
