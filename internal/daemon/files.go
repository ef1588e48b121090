package daemon

import (
	"io"
	"net/http"
	"os"
	"time"

	"banger/api"
)

// followInterval is how often a console that is followed is looked at for more.
const followInterval = 100 * time.Millisecond

// readFiles answers with a tar stream. An error after its first byte cuts the connection, so that the client cannot
// take a part for the whole.
func (s *Server) readFiles(w http.ResponseWriter, r *http.Request) {
	agent, _, err := s.vms.Agent(r.Context(), r.PathValue("vm"))
	if err != nil {
		fail(w, err)
		return
	}
	body := &startedWriter{ResponseWriter: w}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := agent.ReadTar(r.Context(), r.URL.Query().Get("path"), body); err != nil {
		if body.started {
			s.log.Warn("copy from VM", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
		fail(w, err)
	}
}

// startedWriter knows whether anything was written.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) Write(p []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(p)
}

func (s *Server) writeFiles(w http.ResponseWriter, r *http.Request) {
	agent, _, err := s.vms.Agent(r.Context(), r.PathValue("vm"))
	if err == nil {
		err = agent.WriteTar(r.Context(), r.URL.Query().Get("path"), r.Body)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// logs answers with the console since the last start, and with follow goes on until the VM has stopped.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	follow, err := queryBool(r, "follow")
	if err != nil {
		fail(w, err)
		return
	}
	vm, err := s.vms.VM(r.Context(), r.PathValue("vm"))
	if err != nil {
		fail(w, err)
		return
	}
	console, err := os.Open(s.vms.Dir(vm.ID).ConsoleLog())
	if os.IsNotExist(err) {
		err = api.Errorf(api.CodeConflict, "VM %s was never started", vm.Name).WithHint("start it: banger start %s", vm.Name)
	}
	if err != nil {
		fail(w, err)
		return
	}
	defer console.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		now, stateErr := s.vms.VM(r.Context(), vm.ID) // before the copy, so that the last bytes are not missed
		if _, err := io.Copy(w, console); err != nil {
			return // the client is gone
		}
		if !follow || stateErr != nil || now.State == api.StateStopped {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
