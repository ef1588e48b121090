package main

import (
	"os"
	"testing"
)

// Recorded from a QEMU's /proc/PID/smaps, shortened.
const smaps = `55f0c0a00000-55f0c0e00000 r-xp 00400000 fe:00 131 /usr/bin/qemu-system-x86_64
Size:               4096 kB
Rss:                2048 kB
Pss:                1024 kB
Pss_Dirty:             0 kB
VmFlags: rd ex mr mw me sd
7f1240000000-7f1280000000 rw-s 00000000 00:01 1034 /memfd:memory-backend-memfd (deleted)
Rss:              182272 kB
Pss:              182272 kB
VmFlags: rd wr sh mr mw me ms sd
7f1280000000-7f1281000000 rw-p 00000000 00:00 0
Rss:                1024 kB
Pss:                1024 kB
`

func TestSumMemory(t *testing.T) {
	got, err := sumMemory([]byte(smaps))
	if err != nil {
		t.Fatal(err)
	}
	if want := (memory{rssBytes: 3 << 20, pssBytes: 2 << 20, guestBytes: 178 << 20}); got != want {
		t.Errorf("memory is %+v, want %+v", got, want)
	}
}

func TestSumMemoryMalformed(t *testing.T) {
	for _, text := range []string{"Rss:", "Pss: many kB", "Rss: 99999999999999999999 kB"} {
		if _, err := sumMemory([]byte(text)); err == nil {
			t.Errorf("no error for %q", text)
		}
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	got, err := memoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if got.rssBytes < 1<<20 || got.pssBytes <= 0 || got.pssBytes > got.rssBytes || got.guestBytes != 0 {
		t.Errorf("memory is %+v", got)
	}
}
