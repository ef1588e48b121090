// Package ssh is what a home folder has for its owner's ssh: one key for all VMs, the VMs' pinned
// host keys, the text for ssh's configuration, and what is run in a guest to serve one connection.
//
// No sshd needs to listen in a guest: `sshd -i` serves the one connection that the agent carries
// (package vm runs it), so it works seconds after a start, and without a network.
package ssh

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/internal/atomicfile"
	"banger/internal/home"
)

// Dir is the folder of ssh's files in a home folder.
type Dir string

// HomeDir returns the folder for a home folder.
func HomeDir(d home.Dir) Dir { return Dir(d.SSH()) }

// Key is the owner's private key.
func (d Dir) Key() string { return filepath.Join(string(d), "id_ed25519") }

// PublicKey is its public half, as a line.
func (d Dir) PublicKey() string { return d.Key() + ".pub" }

// KnownHosts has the host keys of the VMs that were spoken to; it is written anew from the daemon's
// records.
func (d Dir) KnownHosts() string { return filepath.Join(string(d), "known_hosts") }

// Config is what the user's ~/.ssh/config includes.
func (d Dir) Config() string { return filepath.Join(string(d), "config") }

// maxKeyBytes bounds a key file and a public key; an ed25519 key has a few hundred bytes.
const maxKeyBytes = 16 << 10

// EnsureKey returns the owner's public key as a line without its end, and makes the key when there
// is none. Of callers at once, also in several processes, all get the same key.
func (d Dir) EnsureKey() (string, error) {
	public, err := d.readKey()
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.makeKey(); err == nil {
			public, err = d.readKey()
		}
	}
	if err != nil {
		return "", fmt.Errorf("take ssh key: %w", err)
	}
	if old, err := os.ReadFile(d.PublicKey()); err == nil && string(old) == public+"\n" {
		return public, nil
	}
	// ssh offers a key by its public half; a missing one would only cost time.
	if err := atomicfile.Write(d.PublicKey(), []byte(public+"\n"), 0o644, atomicfile.Durable); err != nil {
		return "", fmt.Errorf("write public ssh key: %w", err)
	}
	return public, nil
}

// keyText is the private key's file.
func (d Dir) keyText() ([]byte, error) {
	file, err := os.Open(d.Key())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxKeyBytes))
}

// readKey returns the public line of the key that there is.
func (d Dir) readKey() (string, error) {
	text, err := d.keyText()
	if err != nil {
		return "", err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", d.Key(), err)
	}
	return publicLine(key.PublicKey()) + " banger", nil
}

// makeKey makes the key file, unless another caller does first.
func (d Dir) makeKey() error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "banger")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	err = atomicfile.Create(d.Key(), pem.EncodeToMemory(block), 0o600, atomicfile.Durable)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// publicLine is a public key as known_hosts and authorized_keys have it, without a comment and the
// line's end.
func publicLine(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// Host is a VM whose host key is known.
type Host struct {
	Name string // DNS label
	ID   string // the VM's, under which no other VM will ever be known
	Key  string // as ParsePrepared gives it
}

// Alias is the name under which a VM's host key stands in known_hosts whatever the VM is called.
func Alias(id string) string { return id + ".vm" }

// WriteKnownHosts makes the file of pinned host keys hold exactly these.
func (d Dir) WriteKnownHosts(hosts []Host) error {
	var text bytes.Buffer
	for _, h := range hosts {
		fmt.Fprintf(&text, "%s.vm,%s %s\n", h.Name, Alias(h.ID), h.Key)
	}
	old, err := os.ReadFile(d.KnownHosts())
	if err == nil && bytes.Equal(old, text.Bytes()) || errors.Is(err, fs.ErrNotExist) && text.Len() == 0 {
		return nil
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("write known hosts: %w", err)
	}
	if err := atomicfile.Write(d.KnownHosts(), text.Bytes(), 0o600, atomicfile.Durable); err != nil {
		return fmt.Errorf("write known hosts: %w", err)
	}
	return nil
}
