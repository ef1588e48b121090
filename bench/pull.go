package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/api"
)

const (
	pullLayers    = 10
	pullFiles     = 256 // in a layer
	pullFileBytes = 64 << 10
	pullName      = "bench-pull"
	pullTimeout   = 3 * time.Minute
)

// measurePull compares `image pull` of an image of ten layers, none and all of them cached, with
// getting their bytes alone, and a pull of what is there with the least that it could do, asking
// the registry for the manifest.
func (b *bench) measurePull(ctx context.Context) (_ result, err error) {
	r := result{
		Note: fmt.Sprintf(
			"image of %d layers of %d MiB from a registry on this host: image pull through the API, and its layers' bytes alone",
			pullLayers,
			pullFiles*pullFileBytes>>20,
		),
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	source, blobs, err := pushLayers(ctx, server.URL)
	if err != nil {
		return r, err
	}
	if err := b.banger(ctx, "ls"); err != nil { // starts the daemon
		return r, err
	}
	defer func() { err = errors.Join(err, b.client.RemoveImage(context.WithoutCancel(ctx), pullName)) }()
	pull := func(ctx context.Context) error {
		_, err := b.client.PullImage(ctx, api.PullImage{Source: source, Name: pullName}, nil)
		return err
	}
	without := func(ctx context.Context) error {
		if err := b.client.RemoveImage(ctx, pullName); err != nil && api.CodeOf(err) != api.CodeNotFound {
			return err
		}
		return nil
	}
	took, err := interleave(
		ctx,
		0,
		b.pulls,
		pullTimeout,
		contender{"image pull, cold", func(ctx context.Context) (time.Duration, error) {
			if err := errors.Join(without(ctx), os.RemoveAll(b.folder().Layers())); err != nil {
				return 0, err
			}
			return timed("", pull).once(ctx)
		}},
		contender{"image pull, cached", func(ctx context.Context) (time.Duration, error) {
			if err := without(ctx); err != nil {
				return 0, err
			}
			return timed("", pull).once(ctx)
		}},
		timed("image pull, already there", pull),
		timed("HTTP GET of the layers", func(ctx context.Context) error { return getAll(ctx, blobs) }),
		timed(
			"HTTP GET of the manifest",
			func(ctx context.Context) error { return getAll(ctx, []string{server.URL + "/v2/bench/manifests/1"}) },
		),
	)
	r.Series = took
	if err == nil {
		r.Ratios = []ratio{
			{Name: "cached beside cold, medians", Value: took[1].Median / took[0].Median},
			{Name: "already there beside the manifest alone, medians", Value: took[2].Median / took[4].Median},
		}
	}
	return r, err
}

// pushLayers puts an image of half-random files into the registry and returns its source and the
// URLs of its layers.
func pushLayers(ctx context.Context, url string) (source string, blobs []string, err error) {
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return "", nil, err
	}
	random := rand.NewChaCha8([32]byte{})
	for n := range pullLayers {
		text, err := layerOf(n, random)
		if err != nil {
			return "", nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil })
		if err != nil {
			return "", nil, err
		}
		digest, err := layer.Digest()
		if err != nil {
			return "", nil, err
		}
		blobs = append(blobs, fmt.Sprintf("%s/v2/bench/blobs/%s", url, digest))
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return "", nil, err
		}
	}
	ref, err := name.ParseReference(strings.TrimPrefix(url, "http://") + "/bench:1")
	if err != nil {
		return "", nil, err
	}
	return "oci:" + ref.Name(), blobs, remote.Write(ref, image, remote.WithContext(ctx))
}

// layerOf makes the tar of one layer.
func layerOf(n int, random io.Reader) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	data := make([]byte, pullFileBytes)
	for file := range pullFiles {
		if _, err := io.ReadFull(random, data[:pullFileBytes/2]); err != nil { // the other half packs away
			return nil, err
		}
		name := fmt.Sprintf("layer%d/file%d", n, file)
		head := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: pullFileBytes}
		if err := w.WriteHeader(head); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func getAll(ctx context.Context, urls []string) error {
	for _, url := range urls {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("get %s: %s", url, response.Status)
		}
	}
	return nil
}
