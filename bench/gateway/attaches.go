package main

import (
	"context"
	"time"
)

// measureAttaches gives machines their place on the network one after the other, and takes it away
// again; then it does so with the network itself.
func (w *world) measureAttaches(ctx context.Context, n counts) ([]Samples, error) {
	attach, detach, begin := Samples{
		Name: "attach a machine",
	}, Samples{
		Name: "detach a machine",
	}, Samples{
		Name: "start the network, attach the first machine",
	}
	if err := w.network.Ensure(ctx); err != nil {
		return nil, err
	}
	for i := range n.attaches {
		began := time.Now()
		if _, err := w.network.Attach(ctx, port(1+i)); err != nil {
			return nil, err
		}
		attach.add(time.Since(began))
	}
	for i := range n.attaches {
		began := time.Now()
		if err := w.network.Detach(ctx, port(1+i).ID); err != nil {
			return nil, err
		}
		detach.add(time.Since(began))
	}
	for range 5 {
		if err := w.network.Stop(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := w.network.Ensure(ctx); err != nil {
			return nil, err
		}
		if _, err := w.network.Attach(ctx, port(1)); err != nil {
			return nil, err
		}
		begin.add(time.Since(began))
	}
	return []Samples{attach, detach, begin}, nil
}
