package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"banger/internal/atomicfile"
	"banger/internal/network"
)

// remember notes the ports for a keeper that finds neither its predecessor nor the holder.
func remember(d network.Dir, ports []network.Port) error {
	text, err := json.Marshal(ports)
	if err != nil {
		return err
	}
	// It need not outlive the host: the ports of a network do not.
	if err := atomicfile.Write(d.PortsNote(), text, 0o600, atomicfile.Volatile); err != nil {
		return fmt.Errorf("note ports: %w", err)
	}
	return nil
}

// remembered returns the ports that were noted last.
func remembered(d network.Dir) ([]network.Port, error) {
	file, err := os.Open(d.PortsNote())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read noted ports: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, network.MaxMessageBytes))
	if err != nil {
		return nil, fmt.Errorf("read noted ports: %w", err)
	}
	var ports []network.Port
	if err := json.Unmarshal(text, &ports); err != nil {
		return nil, fmt.Errorf("read noted ports: %w", err)
	}
	return ports, nil
}
