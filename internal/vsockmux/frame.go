package vsockmux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A session is made of frames: a kind, 24 bits of number, 32 bits of the connection's id, both
// big-endian. The ids of the connections that the host dials are odd, those of the guest's are
// even. No kind is the first byte of a hello.
//
// A connection is over at either end once that end has sent and seen an end, or has sent or seen a
// close. Frames for one that is over are dropped, and no id comes again for long.
const (
	// number: none; four bytes follow, the port that is asked for. Data may follow before the
	// answer.
	frameOpen   = iota + 1
	frameAccept // the answer to open
	frameRefuse // the other answer to open; the connection is over
	frameData   // number: of bytes that follow
	frameCredit // number: of bytes that the sender has read, and the receiver may send in their place
	frameEnd    // the sender writes no more
	frameClose  // the sender neither writes nor reads any more
)

const (
	headerBytes = 8
	portBytes   = 4
	// chunkBytes is the most that one frame carries.
	chunkBytes = 64 << 10
	// queueBytes of frames may wait for the byte stream before writers of data have to.
	queueBytes = 128 << 10
	// queueLimit is what no peer that reads brings about: answers go to one that asks and asks and
	// does not read.
	queueLimit = 1 << 20
)

type header struct {
	kind byte
	n    int
	id   uint32
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(h.kind)<<24|uint32(h.n))
	return binary.BigEndian.AppendUint32(b, h.id)
}

func readHeader(r io.Reader) (header, error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	first := binary.BigEndian.Uint32(b[:])
	h := header{kind: byte(first >> 24), n: int(first & 0xffffff), id: binary.BigEndian.Uint32(b[4:])}
	if h.kind < frameOpen || h.kind > frameClose {
		return header{}, fmt.Errorf("a frame of kind %d", h.kind)
	}
	if h.n > window {
		return header{}, fmt.Errorf("a frame about %d bytes", h.n)
	}
	return h, nil
}

var errNotRead = errors.New("the peer does not read")

// outbox holds the frames on their way to the byte stream. What comes while a write is at work goes
// out together in the next: each write is a virtqueue buffer, and in an emulated guest a trap that
// costs more than its bytes.
type outbox struct {
	kick chan struct{} // has one when there are frames

	mu     sync.Mutex
	frames []byte
	room   chan struct{} // closed when frames become fewer; nil while nobody waits
}

func newOutbox() *outbox { return &outbox{kick: make(chan struct{}, 1)} }

// add takes a frame of a few bytes, always.
func (o *outbox) add(h header, payload ...byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.append(h, payload)
}

// addData takes a frame of data, or returns what to wait for before the next try.
func (o *outbox) addData(h header, data []byte) (room <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.frames) < queueBytes {
		o.append(h, data)
		return nil
	}
	if o.room == nil {
		o.room = make(chan struct{})
	}
	return o.room
}

func (o *outbox) append(h header, payload []byte) {
	o.frames = append(h.append(o.frames), payload...)
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// overfull reports whether more waits than a peer that reads brings about.
func (o *outbox) overfull() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.frames) > queueLimit
}

// swap takes all frames and leaves an empty buffer in their place.
func (o *outbox) swap(empty []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	frames := o.frames
	o.frames = empty[:0]
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return frames
}

// writeTo writes frames until the session is done or w fails.
func (o *outbox) writeTo(w io.Writer, done <-chan struct{}) error {
	var buf []byte
	for {
		select {
		case <-o.kick:
		case <-done:
			return nil
		}
		if buf = o.swap(buf); len(buf) == 0 {
			continue // they went with the last
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
}
