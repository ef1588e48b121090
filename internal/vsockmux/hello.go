package vsockmux

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// The hello lets both ends agree on the byte at which a session begins, whatever is still in the
// port:
//
//	guest → host  hello(nonce), again every helloInterval until answered
//	host → guest  reply(nonce), once per nonce
//	guest → host  start(nonce), and from here on the session's frames in both directions
//
// Everything that is not the awaited frame is skipped. The magic begins with a byte which is no
// kind of frame, so an end that still runs the old session gives it up when it meets a frame.
const (
	magic         = "\xffvsockmx"
	version       = 2
	nonceSize     = 16
	frameSize     = len(magic) + 2 + nonceSize
	helloInterval = 250 * time.Millisecond
)

// ErrVersion is the error of Host and Guest when the other end speaks another version of the
// protocol.
var ErrVersion = errors.New("vsockmux: the other end speaks another protocol version")

type kind byte

const (
	kindHello kind = 'h'
	kindReply kind = 'r'
	kindStart kind = 's'
)

type frame struct {
	kind    kind
	version byte
	nonce   [nonceSize]byte
}

func (f frame) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, byte(f.kind), f.version)
	return append(b, f.nonce[:]...)
}

// readFrame skips to the next frame. The magic's first byte occurs nowhere else in it, so one byte
// of look-back is enough.
func readFrame(r *bufio.Reader) (frame, error) {
	for matched := 0; matched < len(magic); {
		c, err := r.ReadByte()
		if err != nil {
			return frame{}, err
		}
		switch c {
		case magic[matched]:
			matched++
		case magic[0]:
			matched = 1
		default:
			matched = 0
		}
	}
	var rest [2 + nonceSize]byte
	if _, err := io.ReadFull(r, rest[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: kind(rest[0]), version: rest[1]}
	copy(f.nonce[:], rest[2:])
	return f, nil
}

// helloHost answers the guest's hello and returns when the guest has said start. It begins by
// breaking a session which the guest may still believe in (its VMM was restored, or this end gave
// up on a session alone).
func helloHost(r *bufio.Reader, w io.Writer) error {
	if _, err := w.Write([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")); err != nil {
		return fmt.Errorf("reset guest: %w", err)
	}
	var answered *[nonceSize]byte
	for {
		f, err := readFrame(r)
		if err != nil {
			return fmt.Errorf("read guest's hello: %w", err)
		}
		repeated := answered != nil && *answered == f.nonce
		switch {
		case f.kind == kindStart && repeated:
			return nil
		case f.kind == kindHello && !repeated:
			reply := frame{kind: kindReply, version: version, nonce: f.nonce}
			if _, err := w.Write(reply.append(nil)); err != nil {
				return fmt.Errorf("answer guest's hello: %w", err)
			}
			if f.version != version {
				return fmt.Errorf("%w: guest %d, host %d", ErrVersion, f.version, version)
			}
			answered = &f.nonce
		}
	}
}

// helloGuest says hello until the host answers.
func helloGuest(ctx context.Context, r *bufio.Reader, w io.Writer) error {
	hello := frame{kind: kindHello, version: version}
	if _, err := rand.Read(hello.nonce[:]); err != nil {
		return fmt.Errorf("make nonce: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- repeat(ctx, w, hello.append(nil)) }()

	for {
		f, err := readFrame(r)
		if err != nil {
			return fmt.Errorf("read host's reply: %w", err)
		}
		if f.kind != kindReply || f.nonce != hello.nonce {
			continue
		}
		if f.version != version {
			return fmt.Errorf("%w: host %d, guest %d", ErrVersion, f.version, version)
		}
		break
	}
	// The repeater must be silent before start is said: a hello behind it would break the session.
	stop()
	if err := <-sent; err != nil {
		return err
	}
	start := frame{kind: kindStart, version: version, nonce: hello.nonce}
	if _, err := w.Write(start.append(nil)); err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	return nil
}

// repeat writes b every helloInterval until ctx ends, which is no error.
func repeat(ctx context.Context, w io.Writer, b []byte) error {
	tick := time.NewTicker(helloInterval)
	defer tick.Stop()
	for {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("say hello: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
