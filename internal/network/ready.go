package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ReadyFD is where the keeper that Ensure starts finds the pipe for TellReady.
const ReadyFD = 3

// maxReadyBytes bounds what is read of that pipe.
const maxReadyBytes = 64 << 10

// readyLine is what a keeper says that serves. A program may be replaced while its daemon runs, so
// the daemon of an earlier build has to understand it: it knows this line, and takes all else for
// an error.
const readyLine = "ready"

// refusal is what a keeper says that cannot serve.
type refusal struct {
	Served bool   `json:"served,omitempty"` // it cannot, because another does: ErrServed
	Error  string `json:"error,omitempty"`
}

// TellReady tells whoever started this keeper that it serves, or why it does not.
func TellReady(w io.Writer, err error) error {
	if err != nil {
		return json.NewEncoder(w).Encode(refusal{errors.Is(err, ErrServed), err.Error()})
	}
	_, err = fmt.Fprintln(w, readyLine)
	return err
}

// errSilent says that a keeper ended without a word.
var errSilent = errors.New("the process died")

// hearReady reads what TellReady told, until the keeper closes the pipe.
func hearReady(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxReadyBytes))
	if err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	switch strings.TrimSpace(string(text)) {
	case readyLine:
		return nil
	case "":
		return errSilent
	}
	var said refusal
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("hear why the network is not ready: %w", err)
	}
	if said.Served {
		return ErrServed
	}
	return errors.New(said.Error)
}
