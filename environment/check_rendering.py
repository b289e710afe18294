"""Render one small picture off screen; fails with MuJoCo's own error where that is impossible."""

import mujoco

model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light/><geom size='0.1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    if not renderer.render().any():
        raise RuntimeError("MuJoCo rendered a black picture of a lit sphere")
