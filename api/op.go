package api

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Op is one operation of the API: what it takes, what it answers and how both travel. The table of
// all of them is Operations; the client, the daemon's routes and openapi.json are derived from it.
//
// In is a struct. A field with the tag path or query stands there under the tag's name; all others
// are the JSON body. Out is the answer; None is an empty one.
type Op[In, Out any] struct{ Spec }

// Spec is what can be said of an operation without its types.
type Spec struct {
	Name  string // unique, such as "StartMachine"
	Route string // method and pattern, as net/http's ServeMux takes it: "POST /v1/machines/{machine}/start"
	Kind  Kind
	Right Right
	// Media is the media type of the bytes that a KindDownload answers with or a KindUpload takes.
	Media string
	// HomeSettings says that it works with settings that the daemon read when it started, such as
	// the VMM: a client that has others in mind has to replace the daemon first.
	HomeSettings bool
	// Session says that it belongs to a session with a machine: a daemon that makes way still takes
	// it.
	Session bool
	Doc     string // a sentence or two, for people
}

// Kind says how an operation's input and answer travel.
type Kind string

// All kinds.
const (
	// KindUnary takes JSON and answers with JSON.
	KindUnary Kind = "unary"
	// KindProgress takes JSON and answers with Events, one JSON object a line: progress first, then
	// one result or error.
	KindProgress Kind = "progress"
	// KindDownload takes JSON and answers with bytes. An answer that is cut off is no answer.
	KindDownload Kind = "download"
	// KindUpload takes bytes and answers as KindUnary.
	KindUpload Kind = "upload"
	// KindUploadProgress takes bytes and answers as KindProgress.
	KindUploadProgress Kind = "upload-progress"
	// KindUpgrade takes JSON; after it the connection carries frames (see FrameConn).
	KindUpgrade Kind = "upgrade"
	// KindHold takes JSON and answers at once with an empty body that goes on for as long as the
	// client holds the connection.
	KindHold Kind = "hold"
)

// Right is what a client must be allowed to do.
type Right string

// Both rights.
const (
	RightRead  Right = "read"  // changes nothing, on the host or in a guest
	RightWrite Right = "write" // anything else
)

// None is the input or answer of an operation that has none.
type None struct{}

// Operation is an Op of any types.
type Operation interface {
	Describe() Spec
	Types() (in, out reflect.Type)
}

// Describe returns what can be said of the operation without its types.
func (s Spec) Describe() Spec { return s }

// Types returns the types of the input and of the answer.
func (o Op[In, Out]) Types() (in, out reflect.Type) {
	return reflect.TypeFor[In](), reflect.TypeFor[Out]()
}

// Mutates reports whether the operation changes the home folder and ends by itself. A daemon that
// is being replaced takes no new ones and waits for those under way; what reads, and the
// connections that carry a session, go on.
func (s Spec) Mutates() bool {
	return s.Right == RightWrite && !s.Session && (s.Kind == KindUnary || s.Kind == KindProgress || s.Kind == KindUploadProgress)
}

// Remedy says that this operation, with this input, repairs or explains an error. What it does is
// told in words, without a name of a program: "start it".
func (o Op[In, Out]) Remedy(in In, format string, args ...any) Remedy {
	input, err := inputObject(in)
	if err != nil {
		panic(fmt.Sprintf("remedy %s: %v", o.Name, err)) // inputs are plain structs
	}
	return Remedy{Text: fmt.Sprintf(format, args...), Operation: o.Name, Input: input}
}

// Input returns the input of a remedy that is this operation.
func (o Op[In, Out]) Input(r Remedy) (in In, ok bool) {
	if r.Operation != o.Name {
		return in, false
	}
	return in, setInputObject(&in, r.Input) == nil
}

// Remedy is an operation that repairs what an error tells of, or shows more of it. Front ends offer
// it in their own way: the command line as a command, a page as a button.
type Remedy struct {
	Text      string `json:"text"`                // what it does, in words: "start it"
	Operation string `json:"operation,omitempty"` // its name in the table
	// Input is the operation's, all in one object: what stands in the path, the query and the body.
	Input map[string]json.RawMessage `json:"input,omitempty"`
}
