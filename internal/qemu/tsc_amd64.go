package qemu

import (
	"context"
	"time"
)

// readTSC returns the CPU's time-stamp counter.
func readTSC() uint64

// measureTSC returns the counter's rate in kHz. Measuring is the only way that needs no rights and
// no knowledge of the CPU: the MHz of /proc/cpuinfo are those of the moment where the clock scales.
func measureTSC(ctx context.Context) (int, error) {
	const interval = 20 * time.Millisecond
	start, startTSC := sampleTSC()
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-timer.C:
	}
	end, endTSC := sampleTSC()
	return int(float64(endTSC-startTSC) / float64(end.Sub(start)) * float64(time.Second/1000)), nil
}

// sampleTSC reads clock and counter together: of several tries the one that took least.
func sampleTSC() (time.Time, uint64) {
	var best time.Duration
	var at time.Time
	var counter uint64
	for try := range 16 {
		before := time.Now()
		tsc := readTSC()
		if took := time.Since(before); try == 0 || took < best {
			best, at, counter = took, before.Add(took/2), tsc
		}
	}
	return at, counter
}
