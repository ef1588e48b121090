package network

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name string
		tell error
		want string // the error's text
	}{
		{"OK", nil, ""},
		{"ErrServed", ErrServed, ErrServed.Error()},
		{"ErrServedWrapped", fmt.Errorf("lock network: %w", ErrServed), ErrServed.Error()},
		{"ErrOther", errors.New("find pasta: " + ErrServed.Error()), "find pasta: " + ErrServed.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pipe bytes.Buffer
			if err := TellReady(&pipe, tt.tell); err != nil {
				t.Fatal(err)
			}
			got := hearReady(&pipe)
			if (got == nil) != (tt.tell == nil) || got != nil && got.Error() != tt.want {
				t.Errorf("got %v, want %q", got, tt.want)
			}
			if errors.Is(got, ErrServed) != errors.Is(tt.tell, ErrServed) {
				t.Errorf("got %v: is it ErrServed? want that of %v", got, tt.tell)
			}
		})
	}
}

func TestNotReady(t *testing.T) {
	for _, tt := range []struct {
		name, said string
		want       error
	}{
		{"Died", "", errSilent},
		{"Torn", `{"serv`, nil},
		{"Text", "readily\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := hearReady(bytes.NewBufferString(tt.said))
			if got == nil || tt.want != nil && !errors.Is(got, tt.want) {
				t.Errorf("got %v, want an error, %v", got, tt.want)
			}
		})
	}
}
