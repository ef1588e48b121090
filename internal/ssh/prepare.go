package ssh

import (
	_ "embed"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Where things are in a guest.
const (
	// RunDir is banger's own folder there; it is gone with the boot.
	RunDir = "/run/banger"
	// authorizedKeys has the owner's key. The images that banger builds have their listening sshd
	// read it too.
	authorizedKeys = RunDir + "/" + AuthorizedName
	// AuthorizedName is the same, below RunDir.
	AuthorizedName = "ssh/authorized_keys"

	hostKey = "/etc/ssh/ssh_host_ed25519_key"
)

// NoServer is the exit code of PrepareCommand in an image without sshd.
const NoServer = 3

// MaxPreparedBytes bounds what PrepareCommand may print.
const MaxPreparedBytes = 16 << 10

//go:embed prepare.sh
var prepareScript string

// PrepareCommand makes a guest ready for ServeCommand: the owner's key is let in, and there is a
// host key.
func PrepareCommand(ownersKey string) []string {
	return []string{"/bin/sh", "-c", prepareScript, "banger-ssh-prepare", ownersKey, authorizedKeys}
}

// Prepared is what PrepareCommand printed.
type Prepared struct {
	Server  string // path of sshd
	HostKey string // type and base64, as in known_hosts
}

// ParsePrepared reads what PrepareCommand printed; the guest may print what it likes.
func ParsePrepared(printed []byte) (Prepared, error) {
	if len(printed) > MaxPreparedBytes {
		return Prepared{}, fmt.Errorf("read host key: more than %d bytes came", MaxPreparedBytes)
	}
	server, rest, ok := strings.Cut(string(printed), "\n")
	if !ok || !path.IsAbs(server) || strings.ContainsFunc(server, func(r rune) bool { return r < ' ' }) {
		return Prepared{}, fmt.Errorf("read host key: %.80q is no path of sshd", server)
	}
	key, _, _, more, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return Prepared{}, fmt.Errorf("read host key %.80q: %w", rest, err)
	}
	if key.Type() != ssh.KeyAlgoED25519 {
		return Prepared{}, fmt.Errorf("read host key: it is of type %q, not %s", key.Type(), ssh.KeyAlgoED25519)
	}
	if len(more) > 0 {
		return Prepared{}, errors.New("read host key: there is more than one")
	}
	return Prepared{Server: server, HostKey: publicLine(key)}, nil
}

// ServeCommand serves one connection on its standard input and output. The guest's own sshd_config
// counts, but for who is let in and how: the owner's key and the user's own, and no password. While
// systemd still boots PAM is left out: it would wait for logind, up to the end of the boot; a login
// then has no session of logind's.
func ServeCommand(server string, booting bool) []string {
	argv := []string{
		server, "-i",
		"-o", "HostKey=" + hostKey,
		"-o", "AuthorizedKeysFile=" + authorizedKeys + " .ssh/authorized_keys .ssh/authorized_keys2",
		"-o", "PubkeyAuthentication=yes",
		"-o", "AuthenticationMethods=publickey",
		"-o", "PermitRootLogin=prohibit-password",
	}
	if booting {
		argv = append(argv, "-o", "UsePAM=no")
	}
	return argv
}
