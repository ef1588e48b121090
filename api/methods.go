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

// Machines asks for OpMachines.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	return Call(ctx, c, OpMachines, None{})
}

// Machine asks for OpMachine.
func (c *Client) Machine(ctx context.Context, machine string) (Machine, error) {
	return Call(ctx, c, OpMachine, MachineRef{machine})
}

// CreateMachine asks for OpCreateMachine.
func (c *Client) CreateMachine(ctx context.Context, in CreateMachine, progress func(Progress)) (Machine, error) {
	return Stream(ctx, c, OpCreateMachine, in, progress, nil)
}

// Run asks for OpRun; see Connect.
func (c *Client) Run(ctx context.Context, in Run) (*FrameConn, error) {
	return Connect(ctx, c, OpRun, in)
}

// StartMachine asks for OpStartMachine.
func (c *Client) StartMachine(ctx context.Context, in StartMachine, progress func(Progress)) (Machine, error) {
	return Stream(ctx, c, OpStartMachine, in, progress, nil)
}

// StopMachine asks for OpStopMachine.
func (c *Client) StopMachine(ctx context.Context, in StopMachine, progress func(Progress)) (Machine, error) {
	return Stream(ctx, c, OpStopMachine, in, progress, nil)
}

// RestartMachine asks for OpRestartMachine.
func (c *Client) RestartMachine(ctx context.Context, in RestartMachine, progress func(Progress)) (Machine, error) {
	return Stream(ctx, c, OpRestartMachine, in, progress, nil)
}

// KillMachine asks for OpKillMachine.
func (c *Client) KillMachine(ctx context.Context, in KillMachine) (Machine, error) {
	return Call(ctx, c, OpKillMachine, in)
}

// RemoveMachine asks for OpRemoveMachine.
func (c *Client) RemoveMachine(ctx context.Context, in RemoveMachine) error {
	_, err := Call(ctx, c, OpRemoveMachine, in)
	return err
}

// LeaseMachine asks for OpLeaseMachine; see Hold. The lease's own end is not awaited.
func (c *Client) LeaseMachine(ctx context.Context, machine string) error {
	return Hold(ctx, c, OpLeaseMachine, MachineRef{machine})
}

// WaitMachine asks for OpWaitMachine.
func (c *Client) WaitMachine(ctx context.Context, in WaitMachine) (Machine, error) {
	return Call(ctx, c, OpWaitMachine, in)
}

// SetNAT asks for OpSetNAT.
func (c *Client) SetNAT(ctx context.Context, in SetNAT) (Machine, error) {
	return Call(ctx, c, OpSetNAT, in)
}

// SetHostServices asks for OpSetHostServices.
func (c *Client) SetHostServices(ctx context.Context, in SetHostServices) (Machine, error) {
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
func (c *Client) Ports(ctx context.Context, machine string) ([]Port, error) {
	return Call(ctx, c, OpPorts, MachineRef{machine})
}

// PrepareSSH asks for OpPrepareSSH.
func (c *Client) PrepareSSH(ctx context.Context, in PrepareSSH) (SSH, error) {
	return Call(ctx, c, OpPrepareSSH, in)
}

// StatsMachine asks for OpStatsMachine.
func (c *Client) StatsMachine(ctx context.Context, machine string) (Stats, error) {
	return Call(ctx, c, OpStatsMachine, MachineRef{machine})
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
