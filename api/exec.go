package api

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// ExecUpgrade is the protocol that an exec request upgrades its connection to (RFC 9110, section
// 7.8). After the 101 answer both sides send frames: a type byte, a 32-bit big-endian length, and
// that many bytes.
const ExecUpgrade = "banger-exec/1"

// MaxFramePayload bounds one frame; longer data is sent as several.
const MaxFramePayload = 64 << 10

// FrameType says what a frame carries.
type FrameType byte

// All frames.
const (
	FrameStdin      FrameType = 0 // client to daemon: bytes
	FrameStdinClose FrameType = 1 // client to daemon: no more stdin
	FrameResize     FrameType = 2 // client to daemon: TTY as JSON
	FrameSignal     FrameType = 3 // client to daemon: ExecSignal as JSON
	FrameStdout     FrameType = 4 // daemon to client: bytes
	FrameStderr     FrameType = 5 // daemon to client: bytes
	FrameExit       FrameType = 6 // daemon to client: ExecExit as JSON, the last frame
	FrameStdinAck   FrameType = 7 // daemon to client: one FrameStdin was passed on
	FrameProgress   FrameType = 8 // daemon to client: Progress as JSON, of a run that has not started its command
	FrameStarted    FrameType = 9 // daemon to client: RunStarted as JSON; input may follow from now on
)

// StdinWindow is how many FrameStdin a client may send that are not acknowledged yet. A command
// that does not read its input thus holds back the input alone, never a signal behind it.
const StdinWindow = 8

// Exec asks for a command in a machine. What is empty is as the machine's image says.
type Exec struct {
	Machine string   `json:"-" path:"machine"`
	Argv    []string `json:"argv,omitempty"` // empty: the user's login shell
	Env     []string `json:"env,omitempty"`  // K=V, on top of the machine's own
	Dir     string   `json:"dir,omitempty"`  // empty: the image's, or the user's home
	User    string   `json:"user,omitempty"` // empty: the image's, or root
	TTY     *TTY     `json:"tty,omitempty"`  // nil: pipes, stdout and stderr apart

	Stdin bool `json:"stdin,omitempty"` // input follows in frames; without it the command's input is empty
}

// Run asks for a new machine, and for a command in it as soon as it answers. It is CreateMachine,
// StartMachine, WaitMachine and Exec in one, as a container engine would do it: the command is what
// the image and Argv make of it together. Its frames are those of an exec, with FrameProgress and
// one FrameStarted before.
type Run struct {
	// with AutoRemove, the machine is gone when the command or the client is; Lease is not the
	// client's to say
	Machine       CreateMachine `json:"machine"`
	BootTimeoutMS int64         `json:"boot_timeout_ms,omitempty"` // as StartMachine has it
	// before the command: WaitRunning (the default) or WaitBooted
	Wait WaitFor `json:"wait,omitempty"`
	// start no command; the machine stays whatever becomes of the client
	Detach bool `json:"detach,omitempty"`

	Argv []string `json:"argv,omitempty"` // empty: the image's command, or a login shell
	// in place of the image's, whose command then counts no more; "" for none
	Entrypoint *string  `json:"entrypoint,omitempty"`
	Env        []string `json:"env,omitempty"` // the rest as Exec has it
	Dir        string   `json:"dir,omitempty"`
	User       string   `json:"user,omitempty"`
	TTY        *TTY     `json:"tty,omitempty"`
	Stdin      bool     `json:"stdin,omitempty"`
}

// RunStarted says that the machine of a run is up, and which command runs in it.
type RunStarted struct {
	Machine Machine  `json:"machine"`
	Argv    []string `json:"argv,omitempty"` // empty: a login shell, or with Detach nothing
}

// TTY asks for a pseudo terminal, or changes its size.
type TTY struct {
	Rows int    `json:"rows"`
	Cols int    `json:"cols"`
	Term string `json:"term,omitempty"` // value of TERM
}

// ExecSignal sends a signal to the command's process group.
type ExecSignal struct {
	Signal int `json:"signal"` // Linux number
}

// ExecExit is how a command ended.
type ExecExit struct {
	Code   int    `json:"code"`             // its exit status, 127 when not found, 126 when not executable
	Signal int    `json:"signal,omitempty"` // the signal that killed it, then Code is 128 + Signal
	Why    string `json:"why,omitempty"`    // why it could not start, with Code 126 or 127
	Error  *Error `json:"error,omitempty"`  // the command's end is not known: the connection to it broke
}

// Frame is one message of an exec stream.
type Frame struct {
	Type    FrameType
	Payload []byte // valid until the next Read
}

// FrameConn sends and receives frames. One goroutine may Read while others Write.
type FrameConn struct {
	conn net.Conn
	r    *bufio.Reader
	in   []byte

	mu     sync.Mutex // guards the fields below and the order of frames
	out    []byte
	exited bool // a FrameExit was sent, which is the last frame
}

// errExited is the error of a frame that would come after FrameExit.
var errExited = errors.New("write frame: the command's end was told already")

// NewFrameConn speaks frames over conn; r holds bytes that were read from it already, or is nil.
func NewFrameConn(conn net.Conn, r *bufio.Reader) *FrameConn {
	if r == nil {
		r = bufio.NewReader(conn)
	}
	return &FrameConn{conn: conn, r: r, in: make([]byte, MaxFramePayload), out: make([]byte, 5+MaxFramePayload)}
}

// Read returns the next frame, or io.EOF when the peer closed the connection between two frames.
func (f *FrameConn) Read() (Frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFramePayload {
		return Frame{}, fmt.Errorf("read frame: %d bytes, at most %d are allowed", n, MaxFramePayload)
	}
	if _, err := io.ReadFull(f.r, f.in[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Type: FrameType(head[0]), Payload: f.in[:n]}, nil
}

// Write sends data in as many frames of that type as it takes, and one when it is empty.
func (f *FrameConn) Write(t FrameType, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.exited {
		return errExited
	}
	f.exited = t == FrameExit
	for {
		n := copy(f.out[5:], data)
		f.out[0] = byte(t)
		binary.BigEndian.PutUint32(f.out[1:5], uint32(n))
		if _, err := f.conn.Write(f.out[:5+n]); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

// WriteJSON sends v as one frame.
func (f *FrameConn) WriteJSON(t FrameType, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > MaxFramePayload {
		return fmt.Errorf("write frame: %d bytes, at most %d are allowed", len(data), MaxFramePayload)
	}
	return f.Write(t, data)
}

// Close closes the connection.
func (f *FrameConn) Close() error { return f.conn.Close() }
