package relay

import (
	"cmp"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// chunkBytes is how much of a connection is carried at a time.
const chunkBytes = 512 << 10

var chunks = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// join carries what two connections say to each other until both have said all. One that breaks
// takes the other with it, as closed with a reset.
func join(a, b *net.TCPConn) {
	var done sync.WaitGroup
	done.Go(func() { joinHalf(a, b) })
	joinHalf(b, a)
	done.Wait()
	for _, conn := range []*net.TCPConn{a, b} {
		_ = conn.SetLinger(-1) // what is not sent yet, will be
	}
}

func joinHalf(to, from *net.TCPConn) {
	err := carry(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		reset(to)
		reset(from)
	}
}

// carry copies what one connection says to another until its end. What the other does not take
// stays in the socket that it came to. So nothing but a chunk on its way needs memory, however many
// connections are quiet or stuck. io.Copy would have splice(2) do it, and hold a pipe for each: the
// kernel gives an ordinary user few of those (pipe(7), pipe-user-pages-soft).
func carry(to, from *net.TCPConn) error {
	sink, err := to.SyscallConn()
	if err != nil {
		return err
	}
	source, err := from.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if more, err := awaitData(source); !more || err != nil {
			return err
		}
		if err := carryChunk(sink, source); err != nil {
			return err
		}
	}
}

// awaitData waits for data, for which no memory waits with it. At the end there is no more.
func awaitData(source syscall.RawConn) (more bool, err error) {
	var first [1]byte
	var n int
	var failed error // is said once, by whoever asks first
	waited := source.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK)
		return !errors.Is(failed, unix.EAGAIN)
	})
	return n > 0, cmp.Or(waited, failed)
}

// carryChunk carries some of the data that is there, and waits until there is room for it.
func carryChunk(sink, source syscall.RawConn) error {
	var failed error
	waited := sink.Write(func(to uintptr) bool {
		closed := source.Control(func(from uintptr) { failed = tryChunk(int(to), int(from)) })
		failed = cmp.Or(closed, failed)
		return !errors.Is(failed, unix.EAGAIN)
	})
	return cmp.Or(waited, failed)
}

// tryChunk carries what is there and has room. EAGAIN says that nothing has.
func tryChunk(to, from int) error {
	chunk := chunks.Get().(*[chunkBytes]byte)
	defer chunks.Put(chunk)
	n, _, err := unix.Recvfrom(from, chunk[:], unix.MSG_PEEK)
	if err != nil {
		return err
	}
	sent, err := unix.Write(to, chunk[:n])
	if err != nil {
		return err
	}
	_, _, err = unix.Recvfrom(from, chunk[:sent], unix.MSG_TRUNC) // drops them, see tcp(7)
	return err
}

// reset closes a connection so that its peer does not take it for one that has said all.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}
