package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// BuildImage asks for an image that is made inside a throw-away VM. Zero values mean the defaults.
type BuildImage struct {
	Name          string      `json:"name"`
	From          string      `json:"from,omitempty"`       // the source image; the configured default image
	Preset        string      `json:"preset,omitempty"`     // base (the default), dev or agent
	Packages      []string    `json:"packages,omitempty"`   // besides the preset's
	Docker        bool        `json:"docker,omitempty"`     //
	SizeMiB       int         `json:"size_mib,omitempty"`   // of the root while it is built, 8 GiB; not less than the source. The image takes what it needs
	Scripts       []string    `json:"scripts,omitempty"`    // absolute paths on the host, run in the VM as root, in this order
	Files         []BuildFile `json:"files,omitempty"`      // copied before the scripts run
	CPUs          int         `json:"cpus,omitempty"`       // of the VM; the configured ones
	MemoryMiB     int         `json:"memory_mib,omitempty"` //
	KeepOnFailure bool        `json:"keep_on_failure,omitempty"`
	Force         bool        `json:"force,omitempty"` // build also when the image of that name was made from the same inputs
}

// BuildFile is a file or folder that goes into an image.
type BuildFile struct {
	Host  string `json:"host"`  // absolute path
	Guest string `json:"guest"` // absolute path; with a slash at its end, the folder it goes into
}

// BuildImage makes an image inside a throw-away VM, or returns the one of that name when it was made from the same
// inputs. Both callbacks may be nil; log gets whole lines. When ctx ends, nothing is left of the build.
func (c *Client) BuildImage(ctx context.Context, b BuildImage, progress func(Progress), log func(lines string)) (Image, error) {
	return streamLog[Image](ctx, c, "/v1/images/build", b, progress, log)
}

// BuildLog returns what was said in the last build of an image; with follow the reader goes on until that build ends.
func (c *Client) BuildLog(ctx context.Context, image string, follow bool) (io.ReadCloser, error) {
	response, err := c.send(ctx, http.MethodGet, "/v1/images/builds/"+url.PathEscape(image)+"/log?follow="+strconv.FormatBool(follow), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
