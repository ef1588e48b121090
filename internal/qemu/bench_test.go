package qemu

import (
	"io"
	"testing"
)

func BenchmarkVsock(b *testing.B) {
	_, s := boot(b, testPlan(b))
	b.Run("ping", func(b *testing.B) {
		conn := dialGuest(b, s, "echo")
		for b.Loop() {
			if _, err := conn.Write([]byte{0}); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("from guest", func(b *testing.B) {
		const chunk = 64 << 10
		b.SetBytes(chunk)
		conn := dialGuest(b, s, "source 1000000000000")
		for b.Loop() {
			if _, err := io.ReadFull(conn, make([]byte, chunk)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("to guest", func(b *testing.B) {
		const chunk = 64 << 10
		b.SetBytes(chunk)
		conn := dialGuest(b, s, "sink")
		for b.Loop() {
			if _, err := conn.Write(make([]byte, chunk)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
