package vm

import (
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"

	"banger/api"
	"banger/internal/network"
)

// CheckName refuses a name that is not a DNS label.
func CheckName(name string) error {
	if network.IsLabel(name) {
		return nil
	}
	return api.Errorf(api.CodeInvalid, "bad machine name %q", name).
		WithHint("use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends")
}

var (
	adjectives = []string{
		"able", "agile", "amber", "apt", "azure", "bold", "brave", "brisk", "calm", "clever", "cosy", "crisp", "deft", "eager", "early",
		"fair", "fast", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "keen", "kind", "light",
		"lively", "lucid", "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "patient", "plucky", "polite", "proud", "quick",
		"quiet", "rapid", "ready", "royal", "sharp", "silent", "smart", "snug", "solid", "spry", "steady", "sunny",
		"swift", "tidy", "warm", "wise",
	}
	animals = []string{
		"ant", "badger", "bat", "bear", "beaver", "bee", "bison", "crane", "crow", "deer", "dove", "duck", "eagle", "falcon", "ferret",
		"finch", "fox", "frog", "gecko", "goose", "hare", "hawk", "heron", "ibex", "jay", "koala", "lark", "lemur", "lion", "llama",
		"lynx", "magpie", "marten", "mole", "moose", "moth", "newt", "okapi", "orca", "otter", "owl", "panda", "puffin", "quail", "rabbit",
		"raven", "robin", "salmon", "seal", "shrew", "sparrow", "stork", "swan", "tapir", "tern", "tiger", "toad", "vole", "walrus", "wren",
	}
)

// madeUpName returns a readable name such as brave-otter; it may be taken.
func madeUpName() string {
	return adjectives[mathrand.IntN(len(adjectives))] + "-" + animals[mathrand.IntN(len(animals))]
}

// newID returns 12 random hex digits.
func newID() string {
	var id [6]byte
	rand.Read(id[:]) // never fails, see crypto/rand
	return hex.EncodeToString(id[:])
}
