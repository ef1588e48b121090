package provision

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/download"
	"banger/internal/guest/tarcopy"
)

// input is something of the host that the steps need.
type input interface {
	// fetch brings it to this host.
	fetch(ctx context.Context, cache *download.Cache) error
	// write puts it into the drive.
	write(drive *tar.Writer) error
	// identify writes what makes it another input when it changes.
	identify(to io.Writer) error
}

// program is an executable that a source has; the drive holds it as bin/NAME.
type program struct {
	name, key string
	source    download.Source
	path      *string // of the downloaded file, once it is
}

func (p program) fetch(ctx context.Context, cache *download.Cache) error {
	got, err := cache.Fetch(ctx, p.source, "download "+p.name)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if _, local := errors.AsType[*api.Error](err); local { // this host's fault, such as a full disk, has its own hint
		return fmt.Errorf("step %s: download %s: %w", p.name, p.source, err)
	}
	if err != nil {
		return api.Errorf(api.CodeUnavailable, "step %s: download %s: %w", p.name, p.source, err).
			WithHint("set %s to a source that this host reaches: https://HOST/FILE#sha256=HEX or npm:PACKAGE@VERSION", p.key).
			WithRemedy(api.OpStatus.Remedy(api.None{}, "see what it is"))
	}
	*p.path = got
	return nil
}

func (p program) write(drive *tar.Writer) error {
	content, err := download.OpenProgram(*p.path, p.name)
	if err != nil {
		return fmt.Errorf("step %s: %w", p.name, err)
	}
	defer content.Close()
	head := &tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + p.name, Mode: 0o755, Size: content.SizeBytes}
	if err := drive.WriteHeader(head); err != nil {
		return err
	}
	if _, err := io.Copy(drive, content); err != nil {
		return fmt.Errorf("step %s: unpack %s: %w", p.name, p.source, err)
	}
	return nil
}

func (p program) identify(to io.Writer) error {
	_, err := fmt.Fprintf(to, "program %s %s\n", p.name, p.source)
	return err
}

// hostFile is a file or folder of this host.
type hostFile struct {
	at      string // in the drive
	path    string // on the host
	why     string // begins an error
	program bool   // made executable
}

func (hostFile) fetch(context.Context, *download.Cache) error { return nil }

func (f hostFile) write(drive *tar.Writer) error {
	return f.graft(drive, func(h *tar.Header) {
		if f.program {
			h.Mode |= 0o555
		}
	})
}

// identify hashes names, modes and contents, but no times, which every checkout sets anew.
func (f hostFile) identify(to io.Writer) error {
	hashed := tar.NewWriter(to)
	return f.graft(hashed, func(h *tar.Header) {
		*h = tar.Header{Typeflag: h.Typeflag, Name: h.Name, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size}
	})
}

// graft copies the file or folder into a tar, under another name.
func (f hostFile) graft(to *tar.Writer, change func(*tar.Header)) error {
	packed, packer := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		packer.CloseWithError(tarcopy.Pack(packer, f.path))
	}()
	err := f.copyEntries(to, tar.NewReader(packed), change)
	packed.CloseWithError(errors.New("nobody reads any more"))
	<-done
	if err != nil {
		return fmt.Errorf("%s: read %s: %w", f.why, f.path, err)
	}
	return nil
}

func (f hostFile) copyEntries(to *tar.Writer, from *tar.Reader, change func(*tar.Header)) error {
	for {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, below, _ := strings.Cut(strings.TrimSuffix(h.Name, "/"), "/") // its first part is the root's own name
		h.Name = path.Join(f.at, below)
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		change(h)
		if err := to.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
	}
}

// InputsSHA256 identifies what the build is made of, besides the packages that the archive has at
// the time: the same image, steps, sources and files give the same hash, in hex.
func (p Plan) InputsSHA256(ctx context.Context, imageID string) (string, error) {
	sum := sha256.New()
	type told struct {
		Name      string
		Argv, Env []string
	}
	steps := []told{{Name: imageID}}
	for _, s := range p.steps {
		steps = append(steps, told{s.name, s.argv, s.env})
	}
	if err := json.NewEncoder(sum).Encode(steps); err != nil {
		return "", err
	}
	for _, in := range p.inputs {
		if err := errors.Join(context.Cause(ctx), in.identify(sum)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// Fetch downloads what the steps need and the cache has not.
func (p Plan) Fetch(ctx context.Context, cache *download.Cache) error {
	for _, in := range p.inputs {
		if err := in.fetch(ctx, cache); err != nil {
			return err
		}
	}
	return nil
}

// MakeInputs writes the drive with the inputs to path, after Fetch. The path must not exist.
func (p Plan) MakeInputs(ctx context.Context, path string) error {
	packed, packer := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		packer.CloseWithError(p.writeInputs(tar.NewWriter(packer)))
	}()
	err := disk.FromTar(ctx, packed, path, InputsLabel)
	packed.CloseWithError(errors.New("nobody reads any more"))
	<-done
	return err
}

func (p Plan) writeInputs(drive *tar.Writer) error {
	made := map[string]bool{".": true}
	for _, in := range p.inputs {
		at := "bin/x"
		if f, ok := in.(hostFile); ok {
			at = f.at
		}
		if err := makeParents(drive, path.Dir(at), made); err != nil {
			return err
		}
		if err := in.write(drive); err != nil {
			return err
		}
	}
	return drive.Close()
}

// makeParents adds a folder and those above it, each once.
func makeParents(drive *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := makeParents(drive, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return drive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}
