package debian

import (
	"bytes"
	_ "embed"
	"fmt"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// Keyring is Debian's archive keyring for trixie and bookworm, in binary OpenPGP form: the files
// debian-archive-{trixie,bookworm}-{automatic,security-automatic,stable}.pgp of the package
// debian-archive-keyring 2025.1, one after the other. A new Debian release needs its keys added
// here.
//
//go:embed archive-keyring.pgp
var Keyring []byte

// UbuntuKeyring is Ubuntu's archive keyring, in the same form: ubuntu-archive-keyring.gpg of
// Debian's package ubuntu-keyring 2023.11.28.1. Only mmdebstrap uses it.
//
//go:embed ubuntu-keyring.pgp
var UbuntuKeyring []byte

func archiveKeys() (openpgp.EntityList, error) {
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(Keyring))
	if err != nil {
		return nil, fmt.Errorf("read archive keyring: %w", err)
	}
	return keys, nil
}
