package daemon

import (
	"context"
	"net/http"

	"banger/api"
)

func (s *Server) listImages(r *http.Request) ([]api.Image, error) { return s.images.List(r.Context()) }

func (s *Server) inspectImage(r *http.Request) (api.Image, error) {
	return s.images.Inspect(r.Context(), r.PathValue("image"))
}

func (s *Server) removeImage(r *http.Request) (struct{}, error) {
	return struct{}{}, s.images.Remove(r.Context(), r.PathValue("image"))
}

func (s *Server) listKernels(r *http.Request) ([]api.Kernel, error) {
	return s.kernels.List(r.Context())
}

func (s *Server) inspectKernel(r *http.Request) (api.Kernel, error) {
	return s.kernels.Inspect(r.Context(), r.PathValue("kernel"))
}

func (s *Server) pullKernel(r *http.Request) (api.Kernel, error) {
	body, err := decode[api.PullKernel](r)
	if err != nil {
		return api.Kernel{}, err
	}
	return s.kernels.Pull(r.Context(), body)
}

func (s *Server) removeKernel(r *http.Request) (struct{}, error) {
	return struct{}{}, s.kernels.Remove(r.Context(), r.PathValue("kernel"))
}

// anyKernel returns the vmlinux of a kernel that is there, for a trial boot, or "".
func (s *Server) anyKernel(ctx context.Context) string {
	kernels, err := s.kernels.List(ctx)
	if err != nil || len(kernels) == 0 {
		return ""
	}
	return s.kernels.Vmlinux(kernels[0].ID)
}
