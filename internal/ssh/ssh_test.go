package ssh

import (
	"os"
	"strings"
	"sync"
	"testing"

	"banger/internal/home"
)

const (
	aKey       = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOK/TDrVu9xHsPzrWFX3QqBZH2JqwKvC8U7Oy6QG5SeV"
	anotherKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGnje9YLJsQvjtyJe4xWowXJyTgq7IAWTpHHj5Jeoh/I"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEnsureKey(t *testing.T) {
	d := HomeDir(home.Dir(t.TempDir()))
	var made sync.WaitGroup
	var mu sync.Mutex
	keys := map[string]int{}
	for range 16 {
		made.Go(func() {
			key, err := d.EnsureKey()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			keys[key]++
		})
	}
	made.Wait()
	if len(keys) != 1 {
		t.Fatalf("callers at once got %d keys: %v", len(keys), keys)
	}
	for key := range keys {
		if !strings.HasPrefix(key, "ssh-ed25519 AAAA") || strings.Contains(key, "\n") {
			t.Errorf("key %q", key)
		}
		if text, err := os.ReadFile(d.PublicKey()); err != nil || string(text) != key+"\n" {
			t.Errorf("public key %q, %v", text, err)
		}
	}
	for path, want := range map[string]os.FileMode{string(d): 0o700, d.Key(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
	if left, _ := os.ReadDir(string(d)); len(left) != 2 {
		t.Errorf("files are left: %v", left)
	}
	check(t, os.WriteFile(d.Key(), []byte("torn"), 0o600))
	if _, err := d.EnsureKey(); err == nil || !strings.Contains(err.Error(), d.Key()) {
		t.Errorf("with a torn key: %v, want an error that names it", err)
	}
}

func TestWriteKnownHosts(t *testing.T) {
	d := HomeDir(home.Dir(t.TempDir()))
	check(t, d.WriteKnownHosts(nil))
	if _, err := os.Stat(string(d)); !os.IsNotExist(err) {
		t.Errorf("no host made %s: %v", d, err)
	}
	web := Host{Name: "web", ID: "0123456789ab", Key: aKey}
	for _, tt := range []struct {
		hosts []Host
		want  string
	}{
		{[]Host{web}, "web.vm,0123456789ab.vm " + aKey + "\n"},
		{[]Host{web, {Name: "db", ID: "ba9876543210", Key: anotherKey}}, "web.vm,0123456789ab.vm " + aKey + "\ndb.vm,ba9876543210.vm " + anotherKey + "\n"},
		{nil, ""},
	} {
		check(t, d.WriteKnownHosts(tt.hosts))
		if got, err := os.ReadFile(d.KnownHosts()); err != nil || string(got) != tt.want {
			t.Errorf("known hosts of %v are %q, %v; want %q", tt.hosts, got, err, tt.want)
		}
	}
}

var preparedTests = []struct {
	name, printed, server, key string
}{
	{"OK", "/usr/sbin/sshd\n" + aKey + "\n", "/usr/sbin/sshd", aKey},
	{"Comment", "/usr/sbin/sshd\n" + aKey + " root@web\n", "/usr/sbin/sshd", aKey},
	{"ErrEmpty", "", "", ""},
	{"ErrNoKey", "/usr/sbin/sshd\n", "", ""},
	{"ErrNoServer", aKey + "\n", "", ""},
	{"ErrRelative", "sshd\n" + aKey + "\n", "", ""},
	{"ErrControl", "/usr/sbin/\x1b[2Jsshd\n" + aKey + "\n", "", ""},
	{"ErrTwoKeys", "/usr/sbin/sshd\n" + aKey + "\n" + anotherKey + "\n", "", ""},
	{"ErrType", "/usr/sbin/sshd\nssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7\n", "", ""},
	{"ErrBase64", "/usr/sbin/sshd\nssh-ed25519 AAAA\n", "", ""},
	{"ErrLong", "/" + strings.Repeat("s", MaxPreparedBytes) + "\n" + aKey + "\n", "", ""},
}

func TestParsePrepared(t *testing.T) {
	for _, tt := range preparedTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePrepared([]byte(tt.printed))
			if got.Server != tt.server || got.HostKey != tt.key || (err == nil) != (tt.key != "") {
				t.Errorf("ParsePrepared = %+v, %v", got, err)
			}
		})
	}
}

// What a guest prints never makes a second line in the file of known hosts, nor another type of
// key.
func FuzzParsePrepared(f *testing.F) {
	for _, tt := range preparedTests {
		f.Add([]byte(tt.printed))
	}
	f.Fuzz(func(t *testing.T, printed []byte) {
		got, err := ParsePrepared(printed)
		if err != nil {
			return
		}
		if fields := strings.Fields(got.HostKey); len(fields) != 2 || fields[0] != "ssh-ed25519" || strings.ContainsAny(got.HostKey, "\n\r") {
			t.Errorf("host key %q", got.HostKey)
		}
		if !strings.HasPrefix(got.Server, "/") || strings.ContainsAny(got.Server, "\n\x00") {
			t.Errorf("server %q", got.Server)
		}
	})
}
