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

// remember notes the endpoints for a keeper that finds neither its predecessor nor the holder.
func remember(d network.Dir, endpoints []network.Endpoint) error {
	text, err := json.Marshal(endpoints)
	if err != nil {
		return err
	}
	// It need not outlive the host: the endpoints of a network do not.
	if err := atomicfile.Write(d.EndpointsNote(), text, 0o600, atomicfile.Volatile); err != nil {
		return fmt.Errorf("note endpoints: %w", err)
	}
	return nil
}

// remembered returns the endpoints that were noted last.
func remembered(d network.Dir) ([]network.Endpoint, error) {
	file, err := os.Open(d.EndpointsNote())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read noted endpoints: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, network.MaxMessageBytes))
	if err != nil {
		return nil, fmt.Errorf("read noted endpoints: %w", err)
	}
	var endpoints []network.Endpoint
	if err := json.Unmarshal(text, &endpoints); err != nil {
		return nil, fmt.Errorf("read noted endpoints: %w", err)
	}
	return endpoints, nil
}
