package netcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"banger/internal/guestd/smallfile"
)

// maxGivenBytes holds some hundred configurations; there is more than one only after a failure.
const maxGivenBytes = 64 << 10

// givenFile is where the configurations are kept that this boot gave the card, oldest first. It
// lies in /run, so that a machine's memory and what it says are of one moment: a machine that is
// restored from its memory has it, and one that boots has none.
func givenFile(run string) string { return filepath.Join(run, "banger/network.json") }

// Given reports whether the machine's card was given a network in this boot.
func Given(at Folders) (bool, error) {
	given, err := readGiven(at.Run)
	return len(given) > 0, err
}

func readGiven(run string) ([]Config, error) {
	b, err := smallfile.Read(givenFile(run), maxGivenBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var given []Config
	if err := json.Unmarshal(b, &given); err != nil {
		return nil, fmt.Errorf("decode %s: %w", givenFile(run), err)
	}
	for _, c := range given {
		if n := len(c.MAC); n != 0 && n != macBytes {
			return nil, fmt.Errorf("decode %s: a MAC of %d bytes", givenFile(run), n)
		}
	}
	return given, nil
}

func writeGiven(run string, given []Config) error {
	b, err := json.Marshal(given)
	if err != nil {
		return fmt.Errorf("encode network: %w", err)
	}
	path := givenFile(run)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := smallfile.Update(path, 0o644, func([]byte) []byte { return b }); err != nil {
		return fmt.Errorf("remember network: %w", err)
	}
	return nil
}

// with adds a configuration, unless it is there.
func with(given []Config, c Config) []Config {
	same := func(other Config) bool { return reflect.DeepEqual(other, c) }
	if slices.ContainsFunc(given, same) {
		return given
	}
	return append(slices.Clip(given), c)
}
