int cmd_image(int argc, char **argv);
int cmd_image(int argc, char **argv) { (void)argc; (void)argv; return 0; }
