package agentv1

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// StreamPort is the vsock port through which the host reaches the guest's own sockets: one vsock
// connection for each connection, so that none waits for another, and no RPC on the way, which an
// emulated guest would feel.
//
// The host begins with one line, "tcp PORT" or "udp PORT", with the address behind it where it
// matters ("tcp PORT ADDRESS"). The guest answers "ok", or "no " and the reason. Behind its line
// each side sends frames, the host without waiting for the answer: a 32-bit big-endian length and
// that many bytes. Over udp a frame is a datagram. The length StreamEnd ends a direction. A
// connection that closes before both directions have ended was reset.
const StreamPort = 1025

// Bounds of the stream protocol.
const (
	StreamEnd          = 1<<32 - 1 // in place of a length
	StreamHeaderBytes  = 4
	maxStreamLineBytes = 256
)

// StreamTarget is a socket of the guest.
type StreamTarget struct {
	Network string     // tcp or udp
	Port    uint16     // not 0
	Address netip.Addr // the zero value: whichever of the guest's addresses has a listener
}

// Line is the target as the first line of a stream, with its end.
func (t StreamTarget) Line() string {
	line := t.Network + " " + strconv.Itoa(int(t.Port))
	if t.Address.IsValid() {
		line += " " + t.Address.String()
	}
	return line + "\n"
}

// ReadStreamTarget reads the first line of a stream.
func ReadStreamTarget(r *bufio.Reader) (StreamTarget, error) {
	line, err := readStreamLine(r)
	if err != nil {
		return StreamTarget{}, err
	}
	words := strings.Split(line, " ")
	if len(words) < 2 || len(words) > 3 || words[0] != "tcp" && words[0] != "udp" {
		return StreamTarget{}, fmt.Errorf("no socket %q", line)
	}
	port, err := strconv.ParseUint(words[1], 10, 16)
	if err != nil || port == 0 {
		return StreamTarget{}, fmt.Errorf("no port %q", words[1])
	}
	t := StreamTarget{Network: words[0], Port: uint16(port)}
	if len(words) == 3 {
		if t.Address, err = netip.ParseAddr(words[2]); err != nil {
			return StreamTarget{}, fmt.Errorf("no address %q", words[2])
		}
	}
	return t, nil
}

// StreamAnswer is the guest's first line: nil is that the connection stands.
func StreamAnswer(refused error) string {
	if refused == nil {
		return "ok\n"
	}
	reason := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, refused.Error())
	return "no " + reason[:min(len(reason), maxStreamLineBytes-len("no "))] + "\n"
}

// StreamRefusedError is the guest's word why there is no connection.
type StreamRefusedError struct{ Reason string }

func (e *StreamRefusedError) Error() string { return e.Reason }

// ReadStreamAnswer reads the guest's first line. Its error is a *StreamRefusedError when the guest
// said no.
func ReadStreamAnswer(r *bufio.Reader) error {
	line, err := readStreamLine(r)
	if err != nil {
		return err
	}
	if reason, no := strings.CutPrefix(line, "no "); no {
		return &StreamRefusedError{strconv.QuoteToGraphic(reason)}
	}
	if line != "ok" {
		return fmt.Errorf("the guest answered %.40q", line)
	}
	return nil
}

func readStreamLine(r *bufio.Reader) (string, error) {
	var line []byte
	for len(line) <= maxStreamLineBytes {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return string(line), nil
		}
		line = append(line, b)
	}
	return "", fmt.Errorf("no line within %d bytes", maxStreamLineBytes)
}

// WriteStreamFrame sends the n bytes that lie in frame behind StreamHeaderBytes, in one write.
func WriteStreamFrame(w io.Writer, frame []byte, n int) error {
	binary.BigEndian.PutUint32(frame, uint32(n))
	_, err := w.Write(frame[:StreamHeaderBytes+n])
	return err
}

// WriteStreamEnd ends a direction.
func WriteStreamEnd(w io.Writer) error {
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, StreamEnd))
	return err
}

// NextStreamFrame reads the length of the next frame, which ReadStreamData then reads: a connection
// at rest needs no buffer. io.EOF says that the direction has ended, io.ErrUnexpectedEOF that the
// connection was reset.
func NextStreamFrame(r io.Reader) (n int, err error) {
	var header [StreamHeaderBytes]byte
	if err := ReadStreamData(r, header[:]); err != nil {
		return 0, err
	}
	length := binary.BigEndian.Uint32(header[:])
	if length == StreamEnd {
		return 0, io.EOF
	}
	if length > MaxChunkBytes {
		return 0, fmt.Errorf("a frame of %d bytes: at most %d are allowed", length, MaxChunkBytes)
	}
	return int(length), nil
}

// ReadStreamData fills data.
func ReadStreamData(r io.Reader, data []byte) error {
	_, err := io.ReadFull(r, data)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
