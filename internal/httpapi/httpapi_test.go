package httpapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/control"
	"banger/internal/vmtest"
)

func TestMain(m *testing.M) {
	vmtest.Main()
	goleak.VerifyTestMain(m)
}

// newServer binds the operations of a Control that has nothing below it.
func newServer(t *testing.T) *Server {
	return New(t.Context(), control.New(control.Options{}), slog.New(slog.DiscardHandler))
}

// Whatever path and method a client asks for, it gets the API's own kind of answer.
func TestUnknownRoutes(t *testing.T) {
	handler := newServer(t)
	for _, call := range []string{"GET /", "GET /v1", "GET /v2/machines", "PUT /v1/machines", "GET /v1/machines/web/nonsense", "POST /v1/daemon", "DELETE /v1/doctor"} {
		method, path, _ := strings.Cut(call, " ")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		var e api.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != http.StatusNotFound || e.Code != api.CodeNotFound || e.Message != "no such call: "+call {
			t.Errorf("%s answers %d %s", call, w.Code, w.Body)
		}
		if w.Header().Get(api.VersionHeader) != "1" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s has headers %v", call, w.Header())
		}
	}
}
