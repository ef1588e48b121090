package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ReadyFD is where the keeper that Ensure starts finds the pipe for TellReady.
const ReadyFD = 3

// maxReadyBytes bounds what is read of that pipe.
const maxReadyBytes = 64 << 10

// ready is what a keeper tells whoever started it, when it serves or cannot.
type ready struct {
	Served bool   `json:"served,omitempty"` // it cannot, because another does: ErrServed
	Error  string `json:"error,omitempty"`
}

// TellReady tells whoever started this keeper that it serves, or why it does not.
func TellReady(w io.Writer, err error) error {
	said := ready{Served: errors.Is(err, ErrServed)}
	if err != nil {
		said.Error = err.Error()
	}
	return json.NewEncoder(w).Encode(said)
}

// errSilent says that a keeper ended without a word.
var errSilent = errors.New("the process died")

// hearReady reads what TellReady told, until the keeper closes the pipe.
func hearReady(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxReadyBytes))
	if err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	if len(text) == 0 {
		return errSilent
	}
	var said ready
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("hear whether the network is ready: %w", err)
	}
	switch {
	case said.Served:
		return ErrServed
	case said.Error != "":
		return errors.New(said.Error)
	}
	return nil
}
