package api

// Every operation. The names of those on one machine are a verb and the machine.
var (
	OpStatus = Op[None, DaemonStatus]{Spec{
		Name: "Status", Route: "GET /v1/daemon", Kind: KindUnary, Right: RightRead,
		Doc: "What the daemon says of itself.",
	}}
	OpStopDaemon = Op[StopDaemon, None]{Spec{
		Name: "StopDaemon", Route: "POST /v1/daemon/stop", Kind: KindUnary, Right: RightWrite,
		Doc: "Ends the daemon. It answers once the daemon has let go of its home folder; machines go on.",
	}}
	OpDoctor = Op[None, []Check]{Spec{
		Name: "Doctor", Route: "GET /v1/doctor", Kind: KindUnary, Right: RightRead,
		Doc: "What this host can do, and how to repair what it cannot.",
	}}
	OpOpenAPI = Op[None, None]{Spec{
		Name: "OpenAPI", Route: "GET /v1/openapi.json", Kind: KindDownload, Media: "application/json", Right: RightRead,
		Doc: "This API as an OpenAPI 3.1 document.",
	}}

	OpMachines = Op[None, []Machine]{Spec{
		Name: "Machines", Route: "GET /v1/machines", Kind: KindUnary, Right: RightRead,
		Doc: "All machines, the oldest first. It never waits for a guest.",
	}}
	OpMachine = Op[MachineRef, Machine]{Spec{
		Name: "Machine", Route: "GET /v1/machines/{machine}", Kind: KindUnary, Right: RightRead,
		Doc: "One machine. It never waits for the guest.",
	}}
	OpCreateMachine = Op[CreateMachine, Machine]{Spec{
		Name: "CreateMachine", Route: "POST /v1/machines", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Makes a machine and leaves it stopped. A missing image or kernel is made first. When the client " +
			"leaves, what was made for the machine is undone.",
	}}
	OpRun = Op[Run, None]{Spec{
		Name: "Run", Route: "POST /v1/machines/run", Kind: KindUpgrade, Right: RightWrite, HomeSettings: true,
		Doc: "Makes and starts a machine and runs a command in it.",
	}}
	OpStartMachine = Op[StartMachine, Machine]{Spec{
		Name: "StartMachine", Route: "POST /v1/machines/{machine}/start", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Starts a machine and answers when its agent does. When the client leaves before, the machine is " +
			"stopped again. A running machine is left as it is.",
	}}
	OpStopMachine = Op[StopMachine, Machine]{Spec{
		Name: "StopMachine", Route: "POST /v1/machines/{machine}/stop", Kind: KindProgress, Right: RightWrite,
		Doc: "Shuts a machine down and answers when no VMM is left. A stopped machine is left as it is.",
	}}
	OpRestartMachine = Op[RestartMachine, Machine]{Spec{
		Name: "RestartMachine", Route: "POST /v1/machines/{machine}/restart", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Stops a machine, then starts it.",
	}}
	OpKillMachine = Op[KillMachine, Machine]{Spec{
		Name: "KillMachine", Route: "POST /v1/machines/{machine}/kill", Kind: KindUnary, Right: RightWrite,
		Doc: "Signals a machine's VMM. For a signal that ends it the answer comes when it is gone.",
	}}
	OpRemoveMachine = Op[RemoveMachine, None]{Spec{
		Name: "RemoveMachine", Route: "DELETE /v1/machines/{machine}", Kind: KindUnary, Right: RightWrite,
		Doc: "Deletes a machine and its disk. One that is not stopped is refused, or killed first with force.",
	}}
	OpLeaseMachine = Op[MachineRef, None]{Spec{
		Name: "LeaseMachine", Route: "POST /v1/machines/{machine}/lease", Kind: KindHold, Right: RightWrite,
		Doc: "Ties a machine to the client: when the client lets go of the connection, or dies, the machine " +
			"is removed.",
	}}
	OpWaitMachine = Op[WaitMachine, Machine]{Spec{
		Name: "WaitMachine", Route: "GET /v1/machines/{machine}/wait", Kind: KindUnary, Right: RightRead,
		Doc: "Answers when the machine meets the condition.",
	}}
	OpSetNAT = Op[SetNAT, Machine]{Spec{
		Name: "SetNAT", Route: "PUT /v1/machines/{machine}/nat", Kind: KindUnary, Right: RightWrite,
		Doc: "Opens or closes a machine's way to the world beyond the other machines, at once.",
	}}
	OpSetHostServices = Op[SetHostServices, Machine]{Spec{
		Name: "SetHostServices", Route: "PUT /v1/machines/{machine}/host-services", Kind: KindUnary, Right: RightWrite,
		Doc: "Gives a machine the services of the host that it may reach at the gateway's address, at once.",
	}}
	OpAddForward = Op[AddForward, Forward]{Spec{
		Name: "AddForward", Route: "POST /v1/machines/{machine}/forwards", Kind: KindUnary, Right: RightWrite,
		Doc: "Makes a port of a machine reachable at an address of the host, at once when it runs, and " +
			"answers with the port that was chosen.",
	}}
	OpRemoveForward = Op[RemoveForward, None]{Spec{
		Name: "RemoveForward", Route: "DELETE /v1/machines/{machine}/forwards", Kind: KindUnary, Right: RightWrite,
		Doc: "Ends a forward and its connections.",
	}}
	OpPorts = Op[MachineRef, []Port]{Spec{
		Name: "Ports", Route: "GET /v1/machines/{machine}/ports", Kind: KindUnary, Right: RightRead,
		Doc: "What listens in a running machine, and where the host reaches it.",
	}}
	OpPrepareSSH = Op[PrepareSSH, SSH]{Spec{
		Name: "PrepareSSH", Route: "POST /v1/machines/{machine}/ssh", Kind: KindUnary, Right: RightWrite, Session: true,
		Doc: "Makes a running machine ready for an ssh connection. It fails when the machine shows another " +
			"host key than it is known by.",
	}}
	OpStatsMachine = Op[MachineRef, Stats]{Spec{
		Name: "StatsMachine", Route: "GET /v1/machines/{machine}/stats", Kind: KindUnary, Right: RightRead,
		Doc: "What a running machine uses.",
	}}
	OpLogs = Op[Logs, None]{Spec{
		Name: "Logs", Route: "GET /v1/machines/{machine}/logs",
		Kind: KindDownload, Media: "text/plain; charset=utf-8", Right: RightRead,
		Doc: "The console of a machine's last start.",
	}}
	OpReadFiles = Op[Files, None]{Spec{
		Name: "ReadFiles", Route: "GET /v1/machines/{machine}/files", Kind: KindDownload, Media: "application/x-tar", Right: RightRead,
		Doc: "Files of a running machine as a tar stream.",
	}}
	OpWriteFiles = Op[Files, None]{Spec{
		Name: "WriteFiles", Route: "PUT /v1/machines/{machine}/files", Kind: KindUpload, Media: "application/x-tar", Right: RightWrite,
		Doc: "Unpacks a tar stream in a running machine.",
	}}
	OpExec = Op[Exec, None]{Spec{
		Name: "Exec", Route: "POST /v1/machines/{machine}/exec", Kind: KindUpgrade, Right: RightWrite,
		Doc: "Runs a command in a running machine. When the connection ends, so does the command.",
	}}

	OpImages = Op[None, []Image]{Spec{
		Name: "Images", Route: "GET /v1/images", Kind: KindUnary, Right: RightRead,
		Doc: "All images by name, those without one last.",
	}}
	OpImage = Op[ImageRef, Image]{Spec{
		Name: "Image", Route: "GET /v1/images/{image}", Kind: KindUnary, Right: RightRead,
		Doc: "One image.",
	}}
	OpPullImage = Op[PullImage, Image]{Spec{
		Name: "PullImage", Route: "POST /v1/images/pull", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Makes an image from a registry, a file or a distribution's archive.",
	}}
	OpBuildImage = Op[BuildImage, Image]{Spec{
		Name: "BuildImage", Route: "POST /v1/images/build", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Makes an image inside a machine that is thrown away, or answers with the one of that name when " +
			"it was made from the same inputs. When the client leaves, nothing is left of the build.",
	}}
	OpBuildLog = Op[BuildLog, None]{Spec{
		Name: "BuildLog", Route: "GET /v1/images/builds/{image}/log", Kind: KindDownload,
		Media: "text/plain; charset=utf-8", Right: RightRead,
		Doc: "What was said in the last build of an image.",
	}}
	OpRemoveImage = Op[ImageRef, None]{Spec{
		Name: "RemoveImage", Route: "DELETE /v1/images/{image}", Kind: KindUnary, Right: RightWrite,
		Doc: "Takes a name from an image, and with the last one deletes it; an id deletes it with all its " +
			"names. One that machines use is a conflict.",
	}}
	OpTagImage = Op[TagImage, Image]{Spec{
		Name: "TagImage", Route: "POST /v1/images/{image}/tags", Kind: KindUnary, Right: RightWrite,
		Doc: "Gives an image one more name, which moves to it from another one.",
	}}
	OpPromoteImage = Op[ImageRef, Image]{Spec{
		Name: "PromoteImage", Route: "POST /v1/images/{image}/promote", Kind: KindProgress, Right: RightWrite,
		Doc: "Copies a registered image into the store; it keeps its id.",
	}}
	OpSaveImage = Op[ImageRef, None]{Spec{
		Name: "SaveImage", Route: "GET /v1/images/{image}/archive", Kind: KindDownload, Media: "application/zstd", Right: RightRead,
		Doc: "An image, with the kernel that it names, as an archive.",
	}}
	OpRegisterImage = Op[RegisterImage, Image]{Spec{
		Name: "RegisterImage", Route: "POST /v1/images/register", Kind: KindProgress, Right: RightWrite,
		Doc: "Makes an image of a filesystem that stays where it is.",
	}}
	OpLoadImage = Op[LoadImage, Image]{Spec{
		Name: "LoadImage", Route: "POST /v1/images/load", Kind: KindUploadProgress, Media: "application/zstd", Right: RightWrite,
		Doc: "Makes the image of an archive.",
	}}
	OpPruneImages = Op[Prune, Pruned]{Spec{
		Name: "PruneImages", Route: "POST /v1/images/prune", Kind: KindUnary, Right: RightWrite,
		Doc: "Deletes the images that have neither a name nor a machine.",
	}}

	OpKernels = Op[None, []Kernel]{Spec{
		Name: "Kernels", Route: "GET /v1/kernels", Kind: KindUnary, Right: RightRead,
		Doc: "All kernel bundles by name.",
	}}
	OpKernel = Op[KernelRef, Kernel]{Spec{
		Name: "Kernel", Route: "GET /v1/kernels/{kernel}", Kind: KindUnary, Right: RightRead,
		Doc: "One kernel bundle.",
	}}
	OpPullKernel = Op[PullKernel, Kernel]{Spec{
		Name: "PullKernel", Route: "POST /v1/kernels", Kind: KindProgress, Right: RightWrite, HomeSettings: true,
		Doc: "Fetches a kernel bundle; one that is there already is kept.",
	}}
	OpImportKernel = Op[ImportKernel, Kernel]{Spec{
		Name: "ImportKernel", Route: "POST /v1/kernels/import", Kind: KindProgress, Right: RightWrite,
		Doc: "Makes a kernel bundle of files of the daemon's host.",
	}}
	OpPruneKernels = Op[Prune, Pruned]{Spec{
		Name: "PruneKernels", Route: "POST /v1/kernels/prune", Kind: KindUnary, Right: RightWrite,
		Doc: "Deletes the kernels that have neither a name nor a machine nor an image.",
	}}
	OpRemoveKernel = Op[KernelRef, None]{Spec{
		Name: "RemoveKernel", Route: "DELETE /v1/kernels/{kernel}", Kind: KindUnary, Right: RightWrite,
		Doc: "Takes a name from a kernel bundle, and with the last one deletes it; an id deletes it with all " +
			"its names. One that machines or images use is a conflict.",
	}}
)

// Operations is the table: every operation of the API.
var Operations = []Operation{
	OpStatus, OpStopDaemon, OpDoctor, OpOpenAPI,
	OpMachines, OpMachine, OpCreateMachine, OpRun, OpStartMachine, OpStopMachine, OpRestartMachine, OpKillMachine,
	OpRemoveMachine, OpLeaseMachine, OpWaitMachine,
	OpSetNAT, OpSetHostServices, OpAddForward, OpRemoveForward, OpPorts, OpPrepareSSH, OpStatsMachine, OpLogs,
	OpReadFiles, OpWriteFiles, OpExec,
	OpImages, OpImage, OpPullImage, OpBuildImage, OpBuildLog, OpRemoveImage, OpTagImage, OpPromoteImage, OpSaveImage,
	OpRegisterImage, OpLoadImage, OpPruneImages,
	OpKernels, OpKernel, OpPullKernel, OpImportKernel, OpPruneKernels, OpRemoveKernel,
}
