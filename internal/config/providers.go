package config

import "time"

// Providers are the engines.
type Providers struct {
	// Default is the engine of sandboxes that name none.
	Default     string      `yaml:"default"`
	GVisor      Provider    `yaml:"gvisor"`
	Mock        Provider    `yaml:"mock"`
	Docker      Docker      `yaml:"docker"`
	Firecracker Firecracker `yaml:"firecracker"`
	E2B         E2B         `yaml:"e2b"`
	Custom      Custom      `yaml:"custom"`
	PRoot       PRoot       `yaml:"proot"`
}

// Provider is one engine's switch.
type Provider struct {
	Enabled bool `yaml:"enabled"`
}

// Docker is the engine that makes containers through a Docker daemon.
type Docker struct {
	Enabled        bool              `yaml:"enabled"`
	Socket         string            `yaml:"socket"` // empty: DOCKER_HOST, else the platform's place
	Runtime        string            `yaml:"runtime"`
	DefaultImage   string            `yaml:"default_image"`
	NetworkMode    string            `yaml:"network_mode"`
	SeccompProfile string            `yaml:"seccomp_profile"`
	ReadOnlyRootFS bool              `yaml:"read_only_rootfs"`
	Memory         string            `yaml:"memory"` // such as 512m
	CPUs           string            `yaml:"cpus"`   // such as 1.5
	PidsLimit      int               `yaml:"pids_limit"`
	User           string            `yaml:"user"`
	DroppedCaps    []string          `yaml:"dropped_caps"`
	AddedCaps      []string          `yaml:"added_caps"`
	Tmpfs          map[string]string `yaml:"tmpfs"` // path to mount options
	PoolSecurity   PoolSecurity      `yaml:"pool_security"`
}

// PoolSecurity keeps the users of one pooled container apart.
type PoolSecurity struct {
	PerUserUID           bool `yaml:"per_user_uid"`
	PIDNamespace         bool `yaml:"pid_namespace"`
	HidePID              bool `yaml:"hidepid"`
	WorkspacePermissions bool `yaml:"workspace_permissions"`
}

// Firecracker is the engine that makes virtual machines with Firecracker.
type Firecracker struct {
	Enabled         bool   `yaml:"enabled"`
	FirecrackerPath string `yaml:"firecracker_path"`
	KernelPath      string `yaml:"kernel_path"`
	DefaultRootFS   string `yaml:"default_rootfs"`
	AgentPath       string `yaml:"agent_path"`
	DataDir         string `yaml:"data_dir"`
}

// E2B is the engine that hands sandboxes on to an E2B service.
type E2B struct {
	Enabled    bool   `yaml:"enabled"`
	APIKey     string `yaml:"api_key" secret:"true"`
	APIKeyFile string `yaml:"api_key_file"`
	BaseURL    string `yaml:"base_url"`
}

// Custom is the engine that hands sandboxes on to a service of the operator's.
type Custom struct {
	Enabled    bool          `yaml:"enabled"`
	Name       string        `yaml:"name"`
	BaseURL    string        `yaml:"base_url"`
	APIKey     string        `yaml:"api_key" secret:"true"`
	APIKeyFile string        `yaml:"api_key_file"`
	Timeout    time.Duration `yaml:"timeout"`
}

// PRoot is the engine that needs no privileges and isolates little.
type PRoot struct {
	Enabled        bool          `yaml:"enabled"`
	RootFSPath     string        `yaml:"rootfs_path"`
	Binary         string        `yaml:"proot_binary"`
	WorkspaceBase  string        `yaml:"workspace_base"`
	DefaultTimeout time.Duration `yaml:"default_timeout"`
	MaxSandboxes   int           `yaml:"max_sandboxes"`
	MaxMemoryMB    int           `yaml:"max_memory_mb"` // MiB
	MaxDiskMB      int           `yaml:"max_disk_mb"`   // MiB
	Languages      []string      `yaml:"languages"`
}
