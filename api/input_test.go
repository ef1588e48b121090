package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDecode(t *testing.T) {
	tests := []struct {
		name, body string
		want       StopMachine
		wantErr    string
	}{
		{"Empty", "", StopMachine{}, ""},
		{"Spaces", " \n", StopMachine{}, ""},
		{"Object", `{"timeout_ms":5}`, StopMachine{TimeoutMS: 5}, ""},
		{"NewlineBehind", "{}\n", StopMachine{}, ""},
		{"ErrUnknownKey", `{"timeout":5}`, StopMachine{}, `unknown field "timeout"`},
		{"ErrType", `{"timeout_ms":"5"}`, StopMachine{}, "cannot unmarshal string"},
		{"ErrCut", `{"timeout_ms":5`, StopMachine{TimeoutMS: 5}, "unexpected EOF"},
		{"ErrTwoValues", `{} {}`, StopMachine{}, "something follows the JSON value"},
		{"ErrGarbageBehind", `{}x`, StopMachine{}, "invalid character"},
		{"ErrArray", `[]`, StopMachine{}, "cannot unmarshal array"},
		{"ErrTooLarge", `{"x":"` + strings.Repeat("x", maxInputBytes) + `"}`, StopMachine{}, "request body too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeInput[StopMachine](httptest.NewRequest(http.MethodPost, "/", strings.NewReader(tt.body)))
			if tt.wantErr == "" && (err != nil || got != tt.want) {
				t.Errorf("DecodeInput = %+v, %v; want %+v", got, err, tt.want)
			}
			// What follows the value may be refused by either of two checks, with words of their
			// own.
			if tt.wantErr != "" && (CodeOf(err) != CodeInvalid || err == nil || !strings.Contains(err.Error(), tt.wantErr) && tt.name != "ErrGarbageBehind") {
				t.Errorf("DecodeInput = %v, want invalid with %q", err, tt.wantErr)
			}
		})
	}
}

// everything is an input with a field of each kind at each place.
type everything struct {
	Machine string     `json:"-" path:"machine"`
	Force   bool       `json:"-" query:"force"`
	Host    netip.Addr `json:"-" query:"host"`
	Port    uint16     `json:"-" query:"port"`
	Count   int        `json:"-" query:"count"`
	Names   []string   `json:"names,omitempty"`
}

var opEverything = Op[everything, None]{Spec{Name: "Everything", Route: "POST /v1/things/{machine}/do", Kind: KindUnary}}

// What a client sends is what the daemon reads, wherever a field stands.
func TestInputTravels(t *testing.T) {
	tests := []struct {
		name, wantRequest string
		in                everything
	}{
		{"Path", `POST /v1/things/a%2Fb%3Fc/do {}`, everything{Machine: "a/b?c"}},
		{
			"Query", `POST /v1/things/x/do?count=-3&force=true&host=%3A%3A1&port=80 {}`,
			everything{Machine: "x", Force: true, Host: netip.MustParseAddr("::1"), Port: 80, Count: -3},
		},
		{"Body", `POST /v1/things/x/do {"names":["a"]}`, everything{Machine: "x", Names: []string{"a"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, target, body, err := encodeInput(opEverything.Spec, tt.in)
			if got := fmt.Sprintf("%s %s %s", method, target, body); got != tt.wantRequest || err != nil {
				t.Fatalf("request %s, %v; want %s", got, err, tt.wantRequest)
			}
			var got everything
			mux := http.NewServeMux()
			mux.HandleFunc(opEverything.Route, func(_ http.ResponseWriter, r *http.Request) {
				got, err = DecodeInput[everything](r)
			})
			mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, target, strings.NewReader(string(body))))
			if diff := cmp.Diff(tt.in, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// What would reach another route, or another file than was meant, is not sent.
func TestInputRefused(t *testing.T) {
	for _, in := range []everything{
		{}, {Machine: "."}, {Machine: ".."}, {Machine: "caf\xe9"}, {Machine: "x", Names: []string{"ok", "caf\xe9"}},
	} {
		if _, target, _, err := encodeInput(opEverything.Spec, in); CodeOf(err) != CodeInvalid || err == nil {
			t.Errorf("%+v is sent to %s, %v", in, target, err)
		}
	}
	nested := Run{Machine: CreateMachine{Env: []string{"A=\xff"}}}
	if _, _, _, err := encodeInput(OpRun.Spec, nested); CodeOf(err) != CodeInvalid || err == nil {
		t.Errorf("a machine's environment that is not UTF-8: %v", err)
	}
	request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{\"names\":[\"\xff\"]}"))
	if _, err := DecodeInput[everything](request); CodeOf(err) != CodeInvalid || err == nil {
		t.Errorf("a body that is not UTF-8: %v", err)
	}
}

// An empty request does not close a machine's way to the world.
func TestRequiredFields(t *testing.T) {
	for body, want := range map[string]string{"": `"on" is missing`, "{}": `"on" is missing`, `{"on":false}`: "", `{"on":true}`: ""} {
		in, err := DecodeInput[SetNAT](httptest.NewRequest(http.MethodPut, "/", strings.NewReader(body)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %+v, %v; want %q", body, in, err, want)
		}
	}
}

func TestDecodeQuery(t *testing.T) {
	tests := []struct{ query, want string }{
		{"", ""},
		{"force=1", ""},
		{"force=", ""},
		{"force=x", `force: "x" is neither true nor false`},
		{"port=65536", `port: "65536" is no number from 0 to 65535`},
		{"port=-1", `port: "-1" is no number`},
		{"count=1.5", `count: "1.5" is no number`},
		{"host=nobody", "host: ParseAddr"},
		{"forced=true", `unknown parameter "forced"`},
		{"force=1&force=false", `parameter "force" is given 2 times`},
		{"port=%zz", "invalid URL escape"},
		{"force=1;count=2", "invalid semicolon"},
		{"vm=other", `unknown parameter "vm"`},
	}
	for _, tt := range tests {
		_, err := DecodeInput[everything](httptest.NewRequest(http.MethodPost, "/?"+tt.query, nil))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || CodeOf(err) != CodeInvalid) {
			t.Errorf("%s: %v, want %q", tt.query, err, tt.want)
		}
	}
}

func TestRemedy(t *testing.T) {
	want := everything{Machine: "web", Force: true, Names: []string{"a b"}}
	r := opEverything.Remedy(want, "do it for %s", "web")
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const wire = `{"text":"do it for web","operation":"Everything","input":{"force":true,"machine":"web","names":["a b"]}}`
	if string(data) != wire {
		t.Errorf("remedy %s, want %s", data, wire)
	}
	var back Remedy
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if got, ok := opEverything.Input(back); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("Input = %+v, %t; want %+v", got, ok, want)
	}
	if _, ok := OpStartMachine.Input(back); ok {
		t.Error("another operation takes it")
	}
	back.Input["more"] = json.RawMessage("1")
	if _, ok := opEverything.Input(back); ok {
		t.Error("a field that is not known is taken")
	}
}

func FuzzDecodeInput(f *testing.F) {
	for _, seed := range []string{"force=true|{}", "host=::1%eth0|", "|{\"names\":null}", "count=9223372036854775808|[]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		query, body, _ := strings.Cut(text, "|")
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.URL.RawQuery = query
		if _, err := DecodeInput[everything](r); err != nil {
			if e := new(Error); !errors.As(err, &e) || e.Code != CodeInvalid {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}
