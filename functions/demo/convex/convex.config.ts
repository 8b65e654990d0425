import { defineApp } from "convex/server";
import shares from "./shares/convex.config";

const app = defineApp();
app.use(shares);
export default app;
