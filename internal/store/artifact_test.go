package store

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/api"
)

func TestArtifactEveryFieldSurvives(t *testing.T) {
	s := open(t)
	image := Image{ID: id("1", 64), Name: "debian:trixie", Source: "mmdebstrap", SizeBytes: 1 << 33, Stamp: "a:1:2", CreatedAt: someTime}
	kernel := Kernel{ID: id("2", 64), Name: "debian:trixie", Release: "6.12", Source: "deb", SizeBytes: 1 << 30, Stamp: "b", CreatedAt: someTime}
	for _, record := range []any{image, kernel} {
		for field, value := range reflect.ValueOf(record).Fields() {
			if value.IsZero() {
				t.Errorf("the test gives field %s of %T no value", field.Name, record)
			}
		}
	}
	if err := errors.Join(s.PutImage(t.Context(), image), s.PutKernel(t.Context(), kernel)); err != nil {
		t.Fatal(err)
	}
	gotImage, imageErr := s.Image(t.Context(), "debian:trixie")
	gotKernel, kernelErr := s.Kernel(t.Context(), "2000")
	if err := errors.Join(imageErr, kernelErr); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(image, gotImage); diff != "" {
		t.Errorf("Image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(kernel, gotKernel); diff != "" {
		t.Errorf("Kernel (-want +got):\n%s", diff)
	}
}

// A name moves to what was made last; what had it before stays under its id, for VMs may use it.
func TestPutMovesName(t *testing.T) {
	s := open(t)
	older, newer := id("aaaa", 64), id("bbbb", 64)
	tests := []struct {
		name string
		put  func(id, stamp string) error
		list func() (map[string]string, error) // name to id
	}{
		{
			"Image",
			func(id, stamp string) error {
				return s.PutImage(t.Context(), Image{ID: id, Name: "debian:trixie", Stamp: stamp, CreatedAt: someTime})
			},
			func() (map[string]string, error) {
				all, err := s.Images(t.Context())
				ids := map[string]string{}
				for _, i := range all {
					ids[i.Name] = i.ID + i.Stamp
				}
				return ids, err
			},
		},
		{
			"Kernel",
			func(id, stamp string) error {
				return s.PutKernel(t.Context(), Kernel{ID: id, Name: "debian:trixie", Stamp: stamp, CreatedAt: someTime})
			},
			func() (map[string]string, error) {
				all, err := s.Kernels(t.Context())
				ids := map[string]string{}
				for _, k := range all {
					ids[k.Name] = k.ID + k.Stamp
				}
				return ids, err
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(tt.put(older, " 1"), tt.put(older, " 2"), tt.put(newer, " 3")); err != nil {
				t.Fatal(err)
			}
			got, err := tt.list()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"debian:trixie": newer + " 3", older: older + " 2"}, got); diff != "" {
				t.Errorf("after the newer one (-want +got):\n%s", diff)
			}
			if err := tt.put(older, " 4"); err != nil { // the older content comes back
				t.Fatal(err)
			}
			if got, err = tt.list(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{"debian:trixie": older + " 4", newer: newer + " 3"}, got); diff != "" {
				t.Errorf("after the older one came back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestForeignKeysProtectWhatIsUsed(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	image, kernel := withArtifacts(t, s)
	var names []string
	for i := range 12 {
		v := VM{ID: fmt.Sprintf("%012x", i), Name: fmt.Sprintf("vm-%02d", i), ImageID: image, KernelID: kernel, State: api.StateStopped}
		names = append(names, v.Name)
		if err := s.InsertVM(ctx, &v, nil); err != nil {
			t.Fatal(err)
		}
	}
	for kind, err := range map[string]error{"image": s.DeleteImage(ctx, image), "kernel": s.DeleteKernel(ctx, kernel)} {
		want := kind + " is in use by " + strings.Join(names[:10], ", ") + " and 2 more"
		if api.CodeOf(err) != api.CodeConflict || err.Error() != want {
			t.Errorf("delete %s = %v, want conflict %q", kind, err, want)
		}
	}
	imageUsers, imageErr := s.ImageUsers(ctx, image)
	kernelUsers, kernelErr := s.KernelUsers(ctx, kernel)
	if err := errors.Join(imageErr, kernelErr); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{names, names}, [][]string{imageUsers, kernelUsers}); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	for i := range names {
		if err := s.DeleteVM(ctx, fmt.Sprintf("%012x", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.DeleteImage(ctx, image), s.DeleteKernel(ctx, kernel)); err != nil {
		t.Errorf("delete what is unused: %v", err)
	}
	if err := s.DeleteImage(ctx, image); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("delete twice = %v, want not found", err)
	}
}

func TestNotFoundSaysWhereToLook(t *testing.T) {
	s := open(t)
	_, vmErr := s.VM(t.Context(), "x")
	_, imageErr := s.Image(t.Context(), "x")
	_, kernelErr := s.Kernel(t.Context(), "x")
	for want, err := range map[string]error{"banger ls": vmErr, "banger image ls": imageErr, "banger kernel ls": kernelErr} {
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeNotFound || e.Hint != "see what there is: "+want {
			t.Errorf("%#v, want not found with hint %q", err, want)
		}
	}
}
