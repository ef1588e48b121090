package daemon

import (
	"net/http"

	"banger/api"
)

func (s *Server) addForward(r *http.Request) (api.Forward, error) {
	body, err := decode[api.Forward](r)
	if err != nil {
		return api.Forward{}, err
	}
	return s.vms.AddForward(r.Context(), r.PathValue("vm"), body)
}

func (s *Server) removeForward(r *http.Request) (struct{}, error) {
	body, err := decode[api.Forward](r)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.vms.RemoveForward(r.Context(), r.PathValue("vm"), body)
}

func (s *Server) ports(r *http.Request) ([]api.Port, error) {
	return s.vms.Ports(r.Context(), r.PathValue("vm"))
}
