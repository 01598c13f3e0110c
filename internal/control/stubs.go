package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

var soon = stacyvm.Errorf(stacyvm.CodeUnavailable, "not built yet")

func (s *Service) Exec(ctx context.Context, id stacyvm.SandboxID, request ExecRequest) (ExecResult, error) {
	return ExecResult{}, soon
}
func (s *Service) Run(ctx context.Context, id stacyvm.SandboxID, request ExecRequest) (Output, error) {
	return nil, soon
}
func (s *Service) Start(ctx context.Context, id stacyvm.SandboxID, request ExecRequest) (stacyvm.Process, error) {
	return stacyvm.Process{}, soon
}
func (s *Service) Attach(ctx context.Context, id stacyvm.SandboxID, process string, request AttachRequest) (Output, error) {
	return nil, soon
}
func (s *Service) Processes(ctx context.Context, id stacyvm.SandboxID) ([]stacyvm.Process, error) {
	return nil, soon
}
func (s *Service) Process(ctx context.Context, id stacyvm.SandboxID, process string) (stacyvm.Process, error) {
	return stacyvm.Process{}, soon
}
func (s *Service) Wait(ctx context.Context, id stacyvm.SandboxID, process string) (stacyvm.Process, error) {
	return stacyvm.Process{}, soon
}
func (s *Service) Input(ctx context.Context, id stacyvm.SandboxID, process string, request InputRequest) (received uint64, err error) {
	return 0, soon
}
func (s *Service) Signal(ctx context.Context, id stacyvm.SandboxID, process string, signal int) error {
	return soon
}
func (s *Service) Resize(ctx context.Context, id stacyvm.SandboxID, process string, terminal stacyvm.Terminal) error {
	return soon
}
func (s *Service) ReadFile(ctx context.Context, id stacyvm.SandboxID, path string) (*File, error) {
	return nil, soon
}
func (s *Service) WriteFile(ctx context.Context, id stacyvm.SandboxID, request WriteRequest) (stacyvm.FileInfo, error) {
	return stacyvm.FileInfo{}, soon
}
func (s *Service) ListFiles(ctx context.Context, id stacyvm.SandboxID, path string) ([]stacyvm.FileInfo, error) {
	return nil, soon
}
func (s *Service) StatFile(ctx context.Context, id stacyvm.SandboxID, path string) (stacyvm.FileInfo, error) {
	return stacyvm.FileInfo{}, soon
}
func (s *Service) GlobFiles(ctx context.Context, id stacyvm.SandboxID, pattern string) ([]string, error) {
	return nil, soon
}
func (s *Service) MakeDir(ctx context.Context, id stacyvm.SandboxID, path string, mode uint32) error {
	return soon
}
func (s *Service) MoveFile(ctx context.Context, id stacyvm.SandboxID, from, to string) error {
	return soon
}
func (s *Service) ChmodFile(ctx context.Context, id stacyvm.SandboxID, path string, mode uint32) error {
	return soon
}
func (s *Service) RemoveFile(ctx context.Context, id stacyvm.SandboxID, path string, recursive bool) error {
	return soon
}
func (s *Service) Logs(ctx context.Context, id stacyvm.SandboxID, lines int) ([]string, error) {
	return nil, soon
}
func (s *Service) Stats(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Stats, error) {
	return stacyvm.Stats{}, soon
}
func (s *Service) Providers(ctx context.Context) ([]ProviderStatus, error) { return nil, soon }
func (s *Service) Provider(ctx context.Context, name string) (ProviderStatus, error) {
	return ProviderStatus{}, soon
}
func (s *Service) Readiness(ctx context.Context) Readiness { return Readiness{} }
