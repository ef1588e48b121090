package api

import (
	"context"
	"io"
)

// The methods below are the operations of the same names; the table says what each does.

// Status asks for OpStatus.
func (c *Client) Status(ctx context.Context) (DaemonStatus, error) {
	return Call(ctx, c, OpStatus, None{})
}

// StopDaemon asks for OpStopDaemon.
func (c *Client) StopDaemon(ctx context.Context, in StopDaemon) error {
	_, err := Call(ctx, c, OpStopDaemon, in)
	return err
}

// Doctor asks for OpDoctor.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return Call(ctx, c, OpDoctor, None{})
}

// VMs asks for OpVMs.
func (c *Client) VMs(ctx context.Context) ([]VM, error) {
	return Call(ctx, c, OpVMs, None{})
}

// VM asks for OpVM.
func (c *Client) VM(ctx context.Context, vm string) (VM, error) {
	return Call(ctx, c, OpVM, VMRef{vm})
}

// CreateVM asks for OpCreateVM.
func (c *Client) CreateVM(ctx context.Context, in CreateVM, progress func(Progress)) (VM, error) {
	return Stream(ctx, c, OpCreateVM, in, progress, nil)
}

// Run asks for OpRun; see Connect.
func (c *Client) Run(ctx context.Context, in Run) (*FrameConn, error) {
	return Connect(ctx, c, OpRun, in)
}

// StartVM asks for OpStartVM.
func (c *Client) StartVM(ctx context.Context, in StartVM, progress func(Progress)) (VM, error) {
	return Stream(ctx, c, OpStartVM, in, progress, nil)
}

// StopVM asks for OpStopVM.
func (c *Client) StopVM(ctx context.Context, in StopVM, progress func(Progress)) (VM, error) {
	return Stream(ctx, c, OpStopVM, in, progress, nil)
}

// RestartVM asks for OpRestartVM.
func (c *Client) RestartVM(ctx context.Context, in RestartVM, progress func(Progress)) (VM, error) {
	return Stream(ctx, c, OpRestartVM, in, progress, nil)
}

// KillVM asks for OpKillVM.
func (c *Client) KillVM(ctx context.Context, in KillVM) (VM, error) {
	return Call(ctx, c, OpKillVM, in)
}

// RemoveVM asks for OpRemoveVM.
func (c *Client) RemoveVM(ctx context.Context, in RemoveVM) error {
	_, err := Call(ctx, c, OpRemoveVM, in)
	return err
}

// LeaseVM asks for OpLeaseVM; see Hold. The lease's own end is not awaited.
func (c *Client) LeaseVM(ctx context.Context, vm string) error {
	return Hold(ctx, c, OpLeaseVM, VMRef{vm})
}

// WaitVM asks for OpWaitVM.
func (c *Client) WaitVM(ctx context.Context, in WaitVM) (VM, error) {
	return Call(ctx, c, OpWaitVM, in)
}

// SetNAT asks for OpSetNAT.
func (c *Client) SetNAT(ctx context.Context, in SetNAT) (VM, error) {
	return Call(ctx, c, OpSetNAT, in)
}

// SetHostServices asks for OpSetHostServices.
func (c *Client) SetHostServices(ctx context.Context, in SetHostServices) (VM, error) {
	return Call(ctx, c, OpSetHostServices, in)
}

// AddForward asks for OpAddForward.
func (c *Client) AddForward(ctx context.Context, in AddForward) (Forward, error) {
	return Call(ctx, c, OpAddForward, in)
}

// RemoveForward asks for OpRemoveForward.
func (c *Client) RemoveForward(ctx context.Context, in RemoveForward) error {
	_, err := Call(ctx, c, OpRemoveForward, in)
	return err
}

// Ports asks for OpPorts.
func (c *Client) Ports(ctx context.Context, vm string) ([]Port, error) {
	return Call(ctx, c, OpPorts, VMRef{vm})
}

// PrepareSSH asks for OpPrepareSSH.
func (c *Client) PrepareSSH(ctx context.Context, in PrepareSSH) (SSH, error) {
	return Call(ctx, c, OpPrepareSSH, in)
}

// StatsVM asks for OpStatsVM.
func (c *Client) StatsVM(ctx context.Context, vm string) (Stats, error) {
	return Call(ctx, c, OpStatsVM, VMRef{vm})
}

// Logs asks for OpLogs.
func (c *Client) Logs(ctx context.Context, in Logs) (io.ReadCloser, error) {
	return Download(ctx, c, OpLogs, in)
}

// ReadFiles asks for OpReadFiles.
func (c *Client) ReadFiles(ctx context.Context, in Files) (io.ReadCloser, error) {
	return Download(ctx, c, OpReadFiles, in)
}

// WriteFiles asks for OpWriteFiles.
func (c *Client) WriteFiles(ctx context.Context, in Files, tar io.Reader) error {
	_, err := Upload(ctx, c, OpWriteFiles, in, tar)
	return err
}

// Exec asks for OpExec; see Connect.
func (c *Client) Exec(ctx context.Context, in Exec) (*FrameConn, error) {
	return Connect(ctx, c, OpExec, in)
}

// Images asks for OpImages.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	return Call(ctx, c, OpImages, None{})
}

// Image asks for OpImage.
func (c *Client) Image(ctx context.Context, image string) (Image, error) {
	return Call(ctx, c, OpImage, ImageRef{image})
}

// PullImage asks for OpPullImage.
func (c *Client) PullImage(ctx context.Context, in PullImage, progress func(Progress)) (Image, error) {
	return Stream(ctx, c, OpPullImage, in, progress, nil)
}

// BuildImage asks for OpBuildImage.
func (c *Client) BuildImage(ctx context.Context, in BuildImage, progress func(Progress), log func(lines string)) (Image, error) {
	return Stream(ctx, c, OpBuildImage, in, progress, log)
}

// BuildLog asks for OpBuildLog.
func (c *Client) BuildLog(ctx context.Context, in BuildLog) (io.ReadCloser, error) {
	return Download(ctx, c, OpBuildLog, in)
}

// RemoveImage asks for OpRemoveImage.
func (c *Client) RemoveImage(ctx context.Context, image string) error {
	_, err := Call(ctx, c, OpRemoveImage, ImageRef{image})
	return err
}

// TagImage asks for OpTagImage.
func (c *Client) TagImage(ctx context.Context, in TagImage) (Image, error) {
	return Call(ctx, c, OpTagImage, in)
}

// PromoteImage asks for OpPromoteImage.
func (c *Client) PromoteImage(ctx context.Context, image string, progress func(Progress)) (Image, error) {
	return Stream(ctx, c, OpPromoteImage, ImageRef{image}, progress, nil)
}

// SaveImage asks for OpSaveImage.
func (c *Client) SaveImage(ctx context.Context, image string) (io.ReadCloser, error) {
	return Download(ctx, c, OpSaveImage, ImageRef{image})
}

// RegisterImage asks for OpRegisterImage.
func (c *Client) RegisterImage(ctx context.Context, in RegisterImage, progress func(Progress)) (Image, error) {
	return Stream(ctx, c, OpRegisterImage, in, progress, nil)
}

// LoadImage asks for OpLoadImage.
func (c *Client) LoadImage(ctx context.Context, in LoadImage, archive io.Reader, progress func(Progress)) (Image, error) {
	return UploadStream(ctx, c, OpLoadImage, in, archive, progress)
}

// PruneImages asks for OpPruneImages.
func (c *Client) PruneImages(ctx context.Context, in Prune) (Pruned, error) {
	return Call(ctx, c, OpPruneImages, in)
}

// Kernels asks for OpKernels.
func (c *Client) Kernels(ctx context.Context) ([]Kernel, error) {
	return Call(ctx, c, OpKernels, None{})
}

// Kernel asks for OpKernel.
func (c *Client) Kernel(ctx context.Context, kernel string) (Kernel, error) {
	return Call(ctx, c, OpKernel, KernelRef{kernel})
}

// PullKernel asks for OpPullKernel.
func (c *Client) PullKernel(ctx context.Context, in PullKernel, progress func(Progress)) (Kernel, error) {
	return Stream(ctx, c, OpPullKernel, in, progress, nil)
}

// ImportKernel asks for OpImportKernel.
func (c *Client) ImportKernel(ctx context.Context, in ImportKernel, progress func(Progress)) (Kernel, error) {
	return Stream(ctx, c, OpImportKernel, in, progress, nil)
}

// PruneKernels asks for OpPruneKernels.
func (c *Client) PruneKernels(ctx context.Context, in Prune) (Pruned, error) {
	return Call(ctx, c, OpPruneKernels, in)
}

// RemoveKernel asks for OpRemoveKernel.
func (c *Client) RemoveKernel(ctx context.Context, kernel string) error {
	_, err := Call(ctx, c, OpRemoveKernel, KernelRef{kernel})
	return err
}
