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
	names := []string{"debian:trixie"}
	kernel := Artifact{ID: id("2", 64), Name: names[0], Names: names, Release: "6.12", Source: "deb", SizeBytes: 1 << 30, Stamp: "b", CreatedAt: someTime}
	image := Artifact{ID: id("1", 64), Name: names[0], Names: names, KernelID: kernel.ID, Source: "mmdebstrap", SizeBytes: 1 << 33, Stamp: "a:1:2", CreatedAt: someTime}
	for field := range reflect.ValueOf(image).Fields() {
		if reflect.ValueOf(image).FieldByName(field.Name).IsZero() && reflect.ValueOf(kernel).FieldByName(field.Name).IsZero() {
			t.Errorf("the test gives field %s no value", field.Name)
		}
	}
	if err := errors.Join(s.PutArtifact(t.Context(), KindKernel, kernel), s.PutArtifact(t.Context(), KindImage, image)); err != nil {
		t.Fatal(err)
	}
	gotImage, imageErr := s.Artifact(t.Context(), KindImage, "debian:trixie")
	gotKernel, kernelErr := s.Artifact(t.Context(), KindKernel, "2000")
	if err := errors.Join(imageErr, kernelErr); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(image, gotImage); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(kernel, gotKernel); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	image, _ := withArtifacts(t, s)
	other := id("abcd", 64)
	if err := s.PutArtifact(ctx, KindImage, Artifact{ID: other, CreatedAt: someTime}); err != nil {
		t.Fatal(err)
	}
	got := func(id string) []string {
		t.Helper()
		a, err := s.Artifact(ctx, KindImage, id)
		if err != nil {
			t.Fatal(err)
		}
		return a.Names
	}
	if err := errors.Join(s.Tag(ctx, KindImage, image, "a"), s.Tag(ctx, KindImage, image, "b"), s.Tag(ctx, KindImage, image, "a")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"debian:trixie", "a", "b"}, got(image)); diff != "" {
		t.Errorf("after tagging (-want +got):\n%s", diff)
	}
	if err := errors.Join(s.Tag(ctx, KindImage, other, "a"), s.Untag(ctx, KindImage, "debian:trixie"), s.Untag(ctx, KindImage, "nobody's")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"b"}, {"a"}}, [][]string{got(image), got(other)}); diff != "" {
		t.Errorf("after one name moved and one went (-want +got):\n%s", diff)
	}
	if _, err := s.Artifact(ctx, KindKernel, "debian:trixie"); err != nil {
		t.Errorf("the kernel of that name went too: %v", err)
	}
	if err := s.Tag(ctx, KindImage, id("9", 64), "c"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("tag of nothing = %v, want not found", err)
	}
	if err := s.DeleteArtifact(ctx, KindImage, image); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Artifact(ctx, KindImage, "b"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a name outlives its image: %v", err)
	}
}

// An image keeps the kernel that it names, and a kernel that is gone is not named.
func TestImageNamesKernel(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	image, kernel := withArtifacts(t, s)
	if err := s.PutArtifact(ctx, KindImage, Artifact{ID: image, Name: "x", KernelID: kernel}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteArtifact(ctx, KindKernel, kernel); api.CodeOf(err) != api.CodeConflict || err.Error() != "kernel is in use by image debian:trixie" {
		t.Errorf("delete the kernel = %v", err)
	}
	if err := s.PutArtifact(ctx, KindImage, Artifact{ID: id("7", 64), KernelID: id("8", 64)}); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("an image of a kernel that is not there = %v", err)
	}
	if err := errors.Join(s.DeleteArtifact(ctx, KindImage, image), s.DeleteArtifact(ctx, KindKernel, kernel)); err != nil {
		t.Error(err)
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
				return s.PutArtifact(t.Context(), KindImage, Artifact{ID: id, Name: "debian:trixie", Stamp: stamp, CreatedAt: someTime})
			},
			func() (map[string]string, error) {
				all, err := s.Artifacts(t.Context(), KindImage)
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
				return s.PutArtifact(t.Context(), KindKernel, Artifact{ID: id, Name: "debian:trixie", Stamp: stamp, CreatedAt: someTime})
			},
			func() (map[string]string, error) {
				all, err := s.Artifacts(t.Context(), KindKernel)
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
	for kind, err := range map[string]error{"image": s.DeleteArtifact(ctx, KindImage, image), "kernel": s.DeleteArtifact(ctx, KindKernel, kernel)} {
		want := kind + " is in use by " + strings.Join(names[:10], ", ") + " and 2 more"
		if api.CodeOf(err) != api.CodeConflict || err.Error() != want {
			t.Errorf("delete %s = %v, want conflict %q", kind, err, want)
		}
	}
	imageUsers, imageErr := s.ArtifactUsers(ctx, KindImage, image)
	kernelUsers, kernelErr := s.ArtifactUsers(ctx, KindKernel, kernel)
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
	if err := errors.Join(s.DeleteArtifact(ctx, KindImage, image), s.DeleteArtifact(ctx, KindKernel, kernel)); err != nil {
		t.Errorf("delete what is unused: %v", err)
	}
	if err := s.DeleteArtifact(ctx, KindImage, image); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("delete twice = %v, want not found", err)
	}
}

func TestNotFoundSaysWhereToLook(t *testing.T) {
	s := open(t)
	_, vmErr := s.VM(t.Context(), "x")
	_, imageErr := s.Artifact(t.Context(), KindImage, "x")
	_, kernelErr := s.Artifact(t.Context(), KindKernel, "x")
	for want, err := range map[string]error{api.OpMachines.Name: vmErr, api.OpImages.Name: imageErr, api.OpKernels.Name: kernelErr} {
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != api.CodeNotFound || len(e.Remedies) != 1 || e.Remedies[0].Operation != want {
			t.Errorf("%#v, want not found with the remedy %s", err, want)
		}
	}
}
