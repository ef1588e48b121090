package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"banger/internal/network"
)

// findSurvivor returns a VMM of the home that lives in a namespace whose holder has died, or 0. VMMs are known by the
// path of their VM's folder in their command line, and run in no other network namespace than the home's; the lock of
// the network keeps a second one from being made while a VMM lives.
func findSurvivor(d network.Dir) (pid int) {
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0
	}
	vms := []byte(filepath.Join(filepath.Dir(string(d)), "vms") + "/")
	folders, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, folder := range folders {
		line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if err != nil || !bytes.Contains(line, vms) {
			continue // it has ended, or is another's
		}
		theirs, err := os.Readlink(filepath.Join(folder, "ns", "net"))
		if err != nil || theirs == ours {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil {
			return pid
		}
	}
	return 0
}

// remember notes the ports for a keeper that finds neither its predecessor nor the holder.
func remember(d network.Dir, ports []network.Port) error {
	text, err := json.Marshal(ports)
	if err != nil {
		return err
	}
	temp := d.PortsNote() + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("note ports: %w", err)
	}
	if err := os.Rename(temp, d.PortsNote()); err != nil {
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
