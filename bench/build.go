package main

import (
	"context"
	"errors"
	"time"

	"banger/api"
)

// buildTimeout bounds one image build; under emulation apt takes minutes.
const buildTimeout = 30 * time.Minute

// measureBuild compares a build whose inputs have not changed with asking what the image is, the
// least that it could do.
func (b *bench) measureBuild(ctx context.Context) (_ result, err error) {
	const name = namePrefix + "build"
	r := result{
		Note: "banger image build of the preset base: the first one, and again with the same inputs, beside one request for the image",
	}
	if err := b.banger(ctx, "ls"); err != nil { // starts the daemon
		return r, err
	}
	build := func(ctx context.Context) error {
		_, err := b.client.BuildImage(ctx, api.BuildImage{Name: name}, nil, nil)
		return err
	}
	first, err := interleave(ctx, 0, 1, buildTimeout, timed("first build", build))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.client.RemoveImage(context.WithoutCancel(ctx), name)) }()
	again, err := interleave(ctx, 1, b.lists, bootTimeout,
		timed("the same build again", build),
		timed("the image's record", func(ctx context.Context) error {
			_, err := b.client.Image(ctx, name)
			return err
		}),
	)
	if err != nil {
		return r, err
	}
	r.Series = append(first, again...)
	r.Ratios = []ratio{{"again over the record", again[0].Median / again[1].Median, 0}}
	return r, nil
}
