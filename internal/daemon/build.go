package daemon

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"banger/api"
)

func (s *Server) buildImage(r *http.Request, log io.Writer) (api.Image, error) {
	body, err := decode[api.BuildImage](r)
	if err != nil {
		return api.Image{}, err
	}
	return s.builder.Build(r.Context(), body, log)
}

// buildLog answers with the log of an image's last build, and with follow goes on until it has ended.
func (s *Server) buildLog(w http.ResponseWriter, r *http.Request) {
	follow, err := queryBool(r, "follow")
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	body := &startedWriter{ResponseWriter: w}
	err = s.builder.Log(r.Context(), r.PathValue("image"), follow, body, http.NewResponseController(w).Flush)
	if err != nil && !body.started {
		fail(w, err) // otherwise the client is gone
	}
}

// maxLineBytes is where a line without an end is sent all the same.
const maxLineBytes = 64 << 10

// lineWriter sends what is written to it in whole lines, so that no character is cut in two.
type lineWriter struct {
	send func(lines string)
	rest []byte
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	end := bytes.LastIndexByte(l.rest, '\n') + 1
	if end == 0 && len(l.rest) > maxLineBytes {
		end = len(l.rest)
	}
	if end > 0 {
		l.send(strings.ToValidUTF8(string(l.rest[:end]), "\uFFFD"))
		l.rest = append(l.rest[:0], l.rest[end:]...)
	}
	return len(p), nil
}

// end sends a last line that has no end.
func (l *lineWriter) end() {
	if len(l.rest) > 0 {
		l.send(strings.ToValidUTF8(string(l.rest), "\uFFFD") + "\n")
	}
}
